"""How fast tiles that lie in memory are sent to worker processes and become finished objects, against bare scatter.

    python -m benchmarks.hand_over [--runs 5] [--folder DIR] [--codec NAME] [--workload NAME]

Tiles come one after the other, as from a trainer, and go to as many worker processes as there are processors. Bare
`scatter` sends the same bytes and does nothing with them; the third contestant is the embedded cluster, to which
nothing is sent. A ratio is how many times as long they take as tilewright with processes.
"""

from benchmarks.contestants import HAND_OVER
from benchmarks.writing_path import hold_contests


def main() -> None:
    hold_contests("hand_over", __doc__.splitlines()[0], HAND_OVER)


if __name__ == "__main__":
    main()
