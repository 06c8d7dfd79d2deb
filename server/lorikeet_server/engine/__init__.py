"""The device side: one thread runs one model for every mix. Never imports asyncio or starlette."""
