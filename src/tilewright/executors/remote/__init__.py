"""Executor of a cluster of other processes."""

from tilewright.executors.remote.remote_executor import RemoteExecutor

__all__ = ["RemoteExecutor"]
