"""The worker: drains the queues of every live version. It holds no transaction while encoding."""

from embver_pg.worker.lease import WorkerReport
from embver_pg.worker.run import Worker
from embver_pg.worker.signals import stop_on_signals

__all__ = ["Worker", "WorkerReport", "stop_on_signals"]
