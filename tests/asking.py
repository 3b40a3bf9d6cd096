"""Asks an app without a socket or a thread."""

import asyncio
from typing import Any

import httpx
from fastapi import FastAPI

NOBODY = "127.0.0.1:1"  # an address where nothing listens


def ask(app: FastAPI, method: str, path: str, base: str = "http://127.0.0.1:8090", **options: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base) as client:
            return await client.request(method, path, **options)

    return asyncio.run(run())
