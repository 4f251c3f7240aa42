"""Attempts on this machine."""

from collections.abc import Sequence

from launch.machine.workers import NodeWorkers, free_port
from launch.plan import Plan
from launch.render import launch_argv
from launch.rundir import Attempt, RunDir
from launch.supervise.decisions import Past


class Here:
    in_job = again = successor = False

    def __init__(self, run: RunDir):
        self.run = run

    def prepared(self, plan: Plan, past: Sequence[Past]) -> Plan:
        return plan

    def preempted(self) -> bool:
        return False

    def start(self, plan: Plan, attempt: Attempt, resume: str) -> NodeWorkers:
        argv = launch_argv(plan, self.run.root, self.run.accelerate, attempt.number, free_port(), resume)
        return NodeWorkers(argv, attempt, range(plan.world_size), attempt.launcher_log)
