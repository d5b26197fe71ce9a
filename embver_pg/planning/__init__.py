"""What a rollout would cost, before anything is begun."""

from embver_pg.planning.plan import Plan, make_plan
from embver_pg.planning.sample import Range

__all__ = ["Plan", "Range", "make_plan"]
