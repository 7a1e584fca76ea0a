"""What will be written, by whom, from which tiles, and what it costs: known before anything exists."""

from tilewright.plan.array_plan import FULL_RESOLUTION, ArrayPlan
from tilewright.plan.axes import ImageAxes
from tilewright.plan.choice.choose import plan_for_tilings, plan_of, plan_write, with_memory
from tilewright.plan.request import PlanRequest
from tilewright.plan.write_plan import WritePlan

__all__ = [
    "FULL_RESOLUTION",
    "ArrayPlan",
    "ImageAxes",
    "PlanRequest",
    "WritePlan",
    "plan_for_tilings",
    "plan_of",
    "plan_write",
    "with_memory",
]
