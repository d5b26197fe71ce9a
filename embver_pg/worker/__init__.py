"""The worker: drains the queues of every live version. It holds no transaction while encoding."""

from embver_pg.worker.run import Worker, WorkerReport

__all__ = ["Worker", "WorkerReport"]
