"""The asyncio side: routes, wire types, limits, server-sent events. Never imports torch."""
