"""aiosmtpd.handlers.Proxy, started in the main thread. argv: listen port, upstream port."""

import asyncio
import sys

from aiosmtpd.handlers import Proxy
from aiosmtpd.smtp import SMTP


async def main() -> None:
    """Serve until we are ended."""
    listen_port, upstream_port = int(sys.argv[1]), int(sys.argv[2])
    proxy = Proxy("127.0.0.1", upstream_port)
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(proxy, hostname="relay.test", data_size_limit=1 << 30), "127.0.0.1", listen_port, backlog=4096
    )
    await server.serve_forever()


asyncio.run(main())
