"""A site and a real PACS, both ways: what is stored is found, what is found is fetched, faults are told."""

import datetime as dt
import gc
import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from enrolment import make_site
from faulty_network import faulty_network
from pydicom.uid import generate_uid
from real_pacs import RealPacs, running_pacs, tls_in_front

from medseg_client.findings import Finding, ok, shared_report
from medseg_client.pacs import FoundSeries, Pacs, SeriesQuery
from medseg_client.pacs_check import check_pacs
from medseg_client.pacs_settings import PacsSettings
from medseg_core.errors import MedsegError
from medseg_core.pacs_errors import (
    NothingFoundError,
    PacsCertificateError,
    PacsLoginError,
    PacsServiceError,
    PacsStoreError,
    PacsTitleError,
    PacsTransferError,
    PacsUnreachableError,
)

DICOM = Path(__file__).parents[3] / "shared" / "data" / "dicom"
CT, MR = DICOM / "sts/STS_001/CT/image", DICOM / "sts/STS_002/MR_T1/image"
STRUCTURES, SEG = DICOM / "sts/STS_001/CT/mask", DICOM / "seg/liver.dcm"
LABEL_MAP = DICOM / "seg/sparse-labelmap-ppv5.dcm"
pytestmark = [
    pytest.mark.skipif(not DICOM.is_dir(), reason=f"the public data sets are not in {DICOM}"),
    # pynetdicom 3.0 leaves a socket to the garbage collector where no connection comes about: `collected`
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WAYS = {"DICOMweb": RealPacs.by_web, "DIMSE": RealPacs.by_dimse}
both_ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
Way = Callable[..., Pacs]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPacs]:
    with running_pacs(tmp_path_factory.mktemp("pacs")) as running:
        for path in (*files_in(CT), *files_in(STRUCTURES), *files_in(MR)):
            running.put(path)
        yield running


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.dcm"))


def pixels(files: list[Path] | tuple[Path, ...]) -> dict[str, bytes]:
    return {data.SOPInstanceUID: data.PixelData for data in map(pydicom.dcmread, files)}


def as_other_objects(files: list[Path], folder: Path) -> list[Path]:
    """Copies with identifiers of their own, as if never stored."""
    study, series, made = generate_uid(), generate_uid(), []
    for path in files:
        data = pydicom.dcmread(path)
        data.StudyInstanceUID, data.SeriesInstanceUID, data.PatientID = study, series, "COPY"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        made.append(folder / path.name)
        data.save_as(made[-1])
    return made


def the_ct(pacs: Pacs) -> FoundSeries:
    (series,) = pacs.find_series(SeriesQuery(patient="STS_001", modality="CT"))
    return series


@both_ways
def test_series_are_found_by_patient_modality_and_wildcards(pacs: RealPacs, way: Way) -> None:
    client = way(pacs)

    def modalities(text: str) -> list[str]:
        return sorted(series.modality for series in client.find_series(SeriesQuery.parse(text)))

    assert modalities("pacs:patient=STS_001") == ["CT", "RTSTRUCT"]
    assert modalities("pacs:patient=STS_*") == ["CT", "MR", "RTSTRUCT"]
    assert modalities("pacs:patient=STS_*,modality=m?") == ["MR"]
    assert modalities("pacs:patient=STS_*,description=*ct_image") == ["CT"]


@both_ways
def test_a_fetched_series_has_the_pixels_that_were_stored(pacs: RealPacs, way: Way, tmp_path: Path) -> None:
    client, told = way(pacs), list[int]()
    files = client.fetch_series(the_ct(client), tmp_path / "ct", lambda: told.append(1))
    assert pixels(files) == pixels(files_in(CT))
    assert len(told) == len(files) == len(list((tmp_path / "ct").iterdir()))


@both_ways
def test_what_is_stored_is_listed_and_comes_back_the_same(pacs: RealPacs, way: Way, tmp_path: Path) -> None:
    client, files = way(pacs), as_other_objects(files_in(MR)[:5], tmp_path)
    client.store(files)
    (series,) = client.find_series(SeriesQuery(study=str(pydicom.dcmread(files[0]).StudyInstanceUID)))
    assert pixels(client.fetch_series(series, tmp_path / "back")) == pixels(files)


@both_ways
def test_a_segmentation_is_stored(pacs: RealPacs, way: Way, tmp_path: Path) -> None:
    client, (file,) = way(pacs), as_other_objects([SEG], tmp_path)
    client.store([file])
    (series,) = client.find_series(SeriesQuery(study=str(pydicom.dcmread(file).StudyInstanceUID)))
    assert series.modality == "SEG"


def test_an_object_that_the_pacs_does_not_take_is_told(tmp_path: Path) -> None:
    with running_pacs(tmp_path / "pacs") as pacs:
        with pytest.raises((PacsStoreError, PacsServiceError), match=r"kind of object|none of the services"):
            pacs.by_dimse().store([LABEL_MAP])
        with pytest.raises(PacsStoreError, match="1 of 2 files were not stored") as caught:
            pacs.by_dimse().store([SEG, LABEL_MAP])
        assert "whether this kind of object is accepted" in str(caught.value)


@both_ways
def test_a_pacs_that_takes_files_and_keeps_none_is_found_out(way: Way, tmp_path: Path) -> None:
    forgetful = tmp_path / "forget.lua"
    forgetful.write_text("function OnStoredInstance(id) Delete(id) end\n")
    told = r"[12] of 2 files were not stored .it said that it took them"  # Orthanc forgets a moment later
    with (
        running_pacs(tmp_path / "pacs", LuaScripts=[str(forgetful)]) as pacs,
        pytest.raises(PacsStoreError, match=told),
    ):
        way(pacs).store(files_in(MR)[:2])


def test_a_pacs_gone_in_mid_transfer_leaves_nothing(tmp_path: Path) -> None:
    with running_pacs(tmp_path / "pacs") as pacs:
        for path in files_in(CT):
            pacs.put(path)
        client, told = pacs.by_dimse(), list[int]()
        series = the_ct(client)

        def note() -> None:
            told.append(1)
            if len(told) == 2:
                pacs.process.kill()

        with pytest.raises(PacsTransferError, match="of 59 files of a series, none of which was kept"):
            client.fetch_series(series, tmp_path / "ct", note)
        assert [path.name for path in tmp_path.iterdir()] == ["pacs"]


def test_a_connection_cut_in_mid_transfer_leaves_nothing(pacs: RealPacs, tmp_path: Path) -> None:
    with faulty_network(pacs.web_port) as network:
        client = pacs.by_web(url=f"http://127.0.0.1:{network.port}/dicom-web")
        series = the_ct(client)
        network.weather.reset_after_bytes = 2_500_000  # of some 5 MB
        with pytest.raises(PacsTransferError, match="of 59 files of a series, none of which was kept"):
            client.fetch_series(series, tmp_path / "ct")
    assert list(tmp_path.iterdir()) == []


@both_ways
def test_a_series_of_which_a_file_is_lost_is_not_taken(way: Way, tmp_path: Path) -> None:
    with running_pacs(tmp_path / "pacs") as pacs:
        for path in files_in(MR):
            pacs.put(path)
        lost = max((tmp_path / "pacs/storage").glob("??/??/*"), key=lambda path: path.stat().st_size)
        client = way(pacs)
        (series,) = client.find_series(SeriesQuery(patient="STS_002"))
        lost.unlink()
        with pytest.raises((PacsTransferError, PacsServiceError)):
            client.fetch_series(series, tmp_path / "mr")
        assert not (tmp_path / "mr").exists()


@both_ways
def test_a_query_without_an_answer_is_told(pacs: RealPacs, way: Way) -> None:
    with pytest.raises(NothingFoundError, match=r"no series answers the query. Widen it"):
        way(pacs).find_series(SeriesQuery(patient="NOBODY"))


FAULTS: dict[str, tuple[Callable[[RealPacs], Pacs], type[MedsegError], str]] = {
    "another title of theirs": (
        lambda pacs: pacs.by_dimse(ae_title="OTHER"),
        PacsTitleError,
        "its AE title is not OTHER. Correct ae_title",
    ),
    "another title of ours": (
        lambda pacs: pacs.by_dimse(own_ae_title="OTHER"),
        PacsTitleError,
        "does not know the AE title OTHER that calls it. Let the PACS administrator enter",
    ),
    "nobody at the port": (lambda pacs: pacs.by_dimse(port=1), PacsUnreachableError, "nothing answers there"),
    "nobody at the address": (
        lambda pacs: pacs.by_web(url="http://127.0.0.1:1/dicom-web"),
        PacsUnreachableError,
        "nothing answers there",
    ),
    "a web server at the port": (
        lambda pacs: pacs.by_dimse(port=pacs.web_port),
        PacsUnreachableError,
        "it hangs up: a wrong AE title, no PACS",
    ),
    "a PACS at the address": (
        lambda pacs: pacs.by_web(url=f"http://127.0.0.1:{pacs.dicom_port}"),
        PacsUnreachableError,
        "the connection broke",
    ),
    "another path": (lambda pacs: pacs.by_web(url=f"{pacs.url}/old"), PacsServiceError, "HTTP status 404"),
    "no login": (lambda pacs: pacs.by_web(login=None), PacsLoginError, "keys/pacs.login, mode 0600"),
    "a wrong login": (lambda pacs: pacs.by_web(login="reader:no"), PacsLoginError, "refuses the login .401."),
    "TLS where there is none": (
        lambda pacs: pacs.by_web(url=pacs.url.replace("http:", "https:")),
        PacsCertificateError,
        "no TLS connection",
    ),
    "TLS at a port without": (
        lambda pacs: pacs.by_dimse(tls=True),
        PacsCertificateError,
        "does not speak TLS",
    ),
}


def test_check_says_whether_the_pacs_answers_and_shares_no_address(pacs: RealPacs, tmp_path: Path) -> None:
    site, _ = make_site(tmp_path / "site")
    assert list(check_pacs(site)) == []

    def found(**changes: Any) -> Finding:
        settings = PacsSettings(dimse=pacs.dimse_settings(**changes))
        (site.root / "site.toml").write_text(site.settings.model_copy(update={"pacs": settings}).to_toml())
        (finding,) = check_pacs(site)
        return finding

    assert found() == ok("PACS", "it answers queries")
    fault = found(ae_title="OTHER")
    assert (fault.state, fault.text) == ("fault", "it does not answer as it should")
    assert "its AE title is not OTHER" in fault.detail
    assert "OTHER" not in str(shared_report([fault]))


@pytest.mark.parametrize(("way", "kind", "sentence"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_settings_is_a_sentence(
    pacs: RealPacs, way: Callable[[RealPacs], Pacs], kind: type[MedsegError], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence) as caught:
        way(pacs).find_series(SeriesQuery(patient="STS_001"))
    assert "STS_001" not in str(caught.value)
    assert "reader" not in str(caught.value)


@dataclass(frozen=True)
class Secured:
    """A PACS that speaks TLS, with the certificate that proves it."""

    pacs: RealPacs
    url: str
    certificate: Path

    def by_web(self, **more: Any) -> Pacs:
        return self.pacs.by_web(url=self.url, **more)

    def by_dimse(self, **more: Any) -> Pacs:
        return self.pacs.by_dimse(tls=True, **more)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    certificate, key = make_certificate(folder)
    tls = {
        **{"DicomTlsEnabled": True, "DicomTlsCertificate": str(certificate), "DicomTlsPrivateKey": str(key)},
        **{"DicomTlsTrustedCertificates": str(certificate), "DicomTlsRemoteCertificateRequired": False},
    }
    with (
        running_pacs(folder / "pacs", **tls) as pacs,
        tls_in_front(folder / "front", pacs.web_port, certificate, key) as port,
    ):
        yield Secured(pacs, f"https://127.0.0.1:{port}/dicom-web", certificate)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=archive")
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "archive.crt", folder / "archive.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


secured_ways = pytest.mark.parametrize("way", [Secured.by_web, Secured.by_dimse], ids=WAYS)


@secured_ways
def test_a_certificate_of_the_hospitals_authority_is_believed(
    secured: Secured, way: Way, tmp_path: Path
) -> None:
    client, files = way(secured, authority=secured.certificate), as_other_objects(files_in(MR)[:2], tmp_path)
    client.store(files)
    (series,) = client.find_series(SeriesQuery(study=str(pydicom.dcmread(files[0]).StudyInstanceUID)))
    assert pixels(client.fetch_series(series, tmp_path / "back")) == pixels(files)


@secured_ways
def test_a_certificate_of_nobody_known_is_refused(secured: Secured, way: Way) -> None:
    with pytest.raises(PacsCertificateError, match=r"self.signed certificate.*authority"):
        way(secured).find_series(SeriesQuery(patient="STS_001"))


@secured_ways
def test_an_authority_that_is_not_there_is_told(secured: Secured, way: Way) -> None:
    with pytest.raises(PacsCertificateError, match="cannot be read"):
        way(secured, authority=Path("nowhere.pem")).find_series(SeriesQuery(patient="STS_001"))
