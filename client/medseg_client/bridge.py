"""`medseg-site bridge`: where a relay that has no network reaches the way out, and nothing else."""

import asyncio
import sys
import threading

from medseg_client.forwarding import Streams, forward
from medseg_client.site_folder import SiteFolder


def run_bridge(folder: SiteFolder, stop: threading.Event) -> None:
    """Pass on what comes to the way out's port, in the relay's own network, to the way out's socket."""

    async def connect() -> Streams:
        return await asyncio.open_unix_connection(folder.hop)

    def tell(what: str) -> None:
        print(what, file=sys.stderr, flush=True)  # noqa: T201

    asyncio.run(forward(connect, tell, stop, at=("127.0.0.1", folder.settings.egress_port)))
