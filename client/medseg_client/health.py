"""Whether what is kept up here would take part in the next round: what a container's health check asks."""

import os
import time

import grpc
import psutil
from cryptography import x509

from medseg_client.gateway_check import way_fault
from medseg_client.node_watch import SILENT_S, last_request
from medseg_client.site_folder import Role, SiteFolder
from medseg_core.files import is_in_use

PATIENCE_S = 5.0
CLIENTAPP = "flwr-clientapp"  # Flower's process for one message: while it runs the node asks for no other


def kept_up(folder: SiteFolder) -> tuple[Role, ...]:
    """The roles that a supervisor keeps up here."""
    return tuple(role for role in Role if is_in_use(folder.run(role)))


def fault(folder: SiteFolder, role: Role) -> str | None:
    """Why the role would not take part in the next round; None if it would. Raises NotJoinedError."""
    match role:
        case Role.TRAINER:
            return _trainer_answers(folder) or _certificate_holds(folder) or _something_is_approved(folder)
        case Role.EGRESS:
            return way_fault(folder)
        case Role.RELAY:
            return _trainer_answers(folder) or _node_asks(folder)


def _trainer_answers(folder: SiteFolder) -> str | None:
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"unix:{folder.socket}", options) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=PATIENCE_S)
        except grpc.FutureTimeoutError:
            return "the trainer does not answer on its socket. Its log says why: logs/trainer/trainer.log"
    return None


def _certificate_holds(folder: SiteFolder) -> str | None:
    end = x509.load_pem_x509_certificate(folder.kit.certificate.encode()).not_valid_after_utc
    if end.timestamp() < time.time():
        return f"this site's certificate expired on {end:%Y-%m-%d}. Ask the coordinator for a new kit"
    return None


def _something_is_approved(folder: SiteFolder) -> str | None:
    if folder.approved or folder.settings.policy.approve_tasks:
        return None
    return "no experiment is approved. Approve one: medseg-site approve DIR EXPERIMENT.toml"


def _node_asks(folder: SiteFolder) -> str | None:
    if not os.access(folder.egress_log, os.R_OK):
        return "the log of the way out cannot be read: whether the node asks for messages is not known"
    silent_s = time.time() - last_request(folder.egress_log)
    if silent_s < SILENT_S or _is_at_work():
        return None
    return f"the node has not asked for messages for {SILENT_S:.0f} s or more. Its log: logs/relay/node.log"


def _is_at_work() -> bool:
    return any(
        any(CLIENTAPP in word for word in process.info["cmdline"] or ())
        for process in psutil.process_iter(["cmdline"])
    )
