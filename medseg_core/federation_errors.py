"""What goes wrong around a real federation: enrolment, folders, processes, runs, models, ledger."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from medseg_core.errors import MedsegError, RunError, StorageError


class WireVersionsError(MedsegError):
    """Two sides that speak no common version of the wire format."""

    def __init__(self, us: str, ours: Sequence[int], them: str, theirs: Sequence[int]) -> None:
        behind = us if max(ours) < max(theirs, default=0) else them
        super().__init__(
            f"{us} speaks wire version {_listed(ours)}, {them} {_listed(theirs)}. Upgrade medseg at {behind}."
        )


def _listed(versions: Sequence[int]) -> str:
    return " and ".join(str(version) for version in sorted(versions)) or "none"


class EnrolmentError(MedsegError):
    """A request or kit cannot be used; `fault` says why."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        super().__init__(fault)


class EnrolmentFileError(EnrolmentError):
    """A file is not the request or kit that is needed."""

    def __init__(self, path: Path, fault: str, remedy: str) -> None:
        super().__init__(f"{path}: {fault}. {remedy}")


class NoServerFolderError(StorageError):
    """The folder is not a coordinator's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder} holds no server.toml. Make it with `medseg-server init`, or name another."
        )


class OccupiedServerFolderError(StorageError):
    """A new federation needs a folder of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is not empty. Choose a new folder for the federation.")


class RosterError(StorageError):
    """The list of enrolled sites cannot be read."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is damaged. Restore it from a copy, or enrol the sites again.")


class UnknownSiteError(EnrolmentError):
    """No site of that name was ever enrolled."""

    def __init__(self, site: str, known: Sequence[str]) -> None:
        super().__init__(
            f"there is no site {site!r} in the roster. It holds: {', '.join(sorted(known)) or 'none'}."
        )


class NotEnrolledError(EnrolmentError):
    """The site was shut out."""

    def __init__(self, site: str) -> None:
        super().__init__(
            f"{site} is revoked, and its keys are never accepted again. Ask the hospital for new ones, "
            "`medseg-site init` in a new folder, and approve that request."
        )


class FlowerError(RunError):
    """Flower's command line did not do what it was asked."""

    def __init__(self, command: str, answer: str) -> None:
        super().__init__(
            f"flwr {command} failed: {answer}. Is `medseg-server up` running? Its logs/ tell more."
        )


class RunStoppedError(RunError):
    """Somebody stopped the run."""

    def __init__(self) -> None:
        super().__init__("the run was stopped. It goes on with `medseg-server resume`.")


class FinishedRunError(RunError):
    """A run that is over cannot go on."""

    def __init__(self, name: str) -> None:
        super().__init__(f"run {name} is finished: there is nothing to go on with. Start another with `run`.")


class MissingProgramError(RunError):
    """A program that medseg starts is not installed."""

    def __init__(self, program: str, remedy: str) -> None:
        super().__init__(f"the program {program} was not found. Install it: {remedy}")


class UnknownRunError(RunError):
    """No run has that name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        listed = ", ".join(known[-5:]) or "none yet"
        super().__init__(f"there is no run {name!r}. The latest are: {listed}.")


class UnfinishedRunError(RunError):
    """What a run leaves at its end is not there yet."""

    def __init__(self, name: str, state: str) -> None:
        super().__init__(f"run {name} is {state}. Its report and model are written when it has finished.")


class NoModelError(StorageError):
    """A site has no model for what was asked."""

    def __init__(self, fault: str, remedy: str) -> None:
        super().__init__(f"{fault}. {remedy}.")


class ApprovalsError(StorageError):
    """The list of a site's approved models cannot be read."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is damaged. Remove it, and approve a model again.")


class NoSiteFolderError(StorageError):
    """The folder is not a site's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} holds no site.toml. Make it with `medseg-site init`, or name another.")


class NotJoinedError(StorageError):
    """The site is part of no federation yet."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} has no kit. Take the coordinator's with `medseg-site join {folder} KIT`.")


class LocalCertificateError(StorageError):
    """The certificate for the hop inside a site does not fit its settings."""

    def __init__(self, path: Path, host: str) -> None:
        super().__init__(
            f"{path} does not name {host}, as egress_host in site.toml calls the way out. It is made anew by "
            "`medseg-site join DIR KIT`, and where the egress role starts."
        )


class UnknownAccountError(StorageError):
    """An account or group that site.toml names is not there."""

    def __init__(self, kind: Literal["account", "group"], name: str) -> None:
        make = {
            "account": f"useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {name}",
            "group": f"groupadd --system {name}",
        }[kind]
        super().__init__(
            f"[accounts] in site.toml names the {kind} {name}, and there is none. Make it: {make}"
        )


class SharedAccountError(StorageError):
    """Roles that are to be apart share an account or a group, or one of them is root's."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"[accounts] in site.toml: {', '.join(names)} must be three accounts, each with a primary group of its "
            "own, none of them root's or the socket_group. Make them with `useradd --system --user-group`."
        )


class ForeignAccountError(StorageError):
    """Roles of a site with accounts are started by somebody else."""

    def __init__(self, ours: str, wanted: Sequence[str]) -> None:
        super().__init__(
            f"[accounts] in site.toml names {', '.join(wanted)}, and this is {ours}. Start `medseg-site up` as root, "
            "or each role by its account: `medseg-site up DIR --role ROLE`."
        )


class UnreachableError(StorageError):
    """An account cannot read what its role needs."""

    def __init__(self, account: str, path: Path) -> None:
        super().__init__(
            f"account {account} cannot read {path}. Give it the right to, and to enter every folder on the way there; "
            "medseg itself belongs where all accounts can read it, such as in /opt."
        )


class LeakyAccountError(StorageError):
    """An account can read what its role must not."""

    def __init__(self, account: str, path: Path) -> None:
        super().__init__(
            f"account {account} can read {path}, and must not. Take that right from everybody, or from the groups "
            f"of {account} (see `id {account}`), and start again."
        )


class PlantedLinkError(StorageError):
    """A name in a site's folder leads elsewhere, and root would give away what lies there."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is a link that root did not make, or a file with a second name. Look at where it leads; if you "
            "want it so, make the link as root, else put the file itself there."
        )


class EnclosureError(RunError):
    """A process could not be started as another account with a network of its own."""

    def __init__(self, account: str, reason: str) -> None:
        super().__init__(
            f"no process can be started as {account} in a network of its own: {reason}. Root must be allowed to make "
            "network namespaces; where it is not, give each role a container, and take [accounts] out of site.toml."
        )


class LoginFileError(StorageError):
    """A login for a machine of the hospital (HTTP proxy, PACS) cannot be used. The message never holds it."""

    def __init__(self, path: Path, fault: str) -> None:
        self.fault = fault
        super().__init__(f"{path}: {fault}.")


class ProxyRefusedError(RunError):
    """A hospital's HTTP proxy opens no tunnel; `fault` and `remedy` name no machine."""

    def __init__(self, address: str, status: int) -> None:
        self.fault, self.remedy = {
            407: ("does not accept the login", "Write USER:PASSWORD into keys/proxy.login, mode 0600."),
            403: (
                f"does not allow a tunnel to {address}",
                "Have your network team allow CONNECT to that address.",
            ),
            0: ("does not answer as an HTTP proxy", "Correct upstream_proxy in site.toml."),
        }.get(status, (f"could not open a tunnel to {address}", "Ask your network team whether it is well."))
        super().__init__(f"the proxy {self.fault} (status {status or 'none'}). {self.remedy}")


class OccupiedSiteFolderError(StorageError):
    """A new site needs a folder of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is not empty. Choose a new folder for the site.")


class LedgerError(StorageError):
    """The record of what left a site is not as it was written."""

    def __init__(self, path: Path, line: int, fault: str) -> None:
        self.line, self.fault = line, fault
        super().__init__(
            f"{path} line {line}: {fault}. Nothing leaves until this is understood: keep the folder as it is, "
            "find out who changed it, and restore the ledger from a copy."
        )
