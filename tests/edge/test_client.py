"""What the official client makes of our answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from pipeline.adapters.retrievers.memory import MemoryRetriever
from tests.edge.messages import PASSAGE
from tests.edge.scripted import ScriptedWorker, scripted_config
from tests.flows import config
from tests.http import Serving, serving
from workers.errors import WorkerError, WorkerErrorKind

HELLO = [{"role": "user", "content": "hello there"}]
