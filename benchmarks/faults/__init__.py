"""What is left of an output after random faults: every object there, as if nothing had happened, and nobody waits.

    python -m benchmarks.faults [--runs 200] [--seed 1] [--only NUMBER] [--folder DIR]

A schedule is one image, predicted on a cluster of two worker processes by a client process, or handed over to it by
one, in several rounds. In a round anything may be killed, stopped, paused or told to end, objects cannot be stored,
the model raises, a second client comes, the lock is lost, all is overwritten; between two rounds what is stored is
damaged, or replaced by an output of another model in other chunks, which is whole or half-written, and is overwritten
in turn. The last round has no faults and must complete the output. Checked are, after each round, that the ledger says
nothing that is not stored, and that nothing was written again that was intact; at the end, that every file is that of
an undisturbed run, that `verify` says so too, that nothing else lies in the folder, and that no object was stored more
often than faults explain. A client that comes while another one is stopped, and holds the lock, must be refused.

All is drawn from the seed and the number of the schedule, so that one can be run again alone, with --only. When
exactly a fault hits depends on the machine as well.
"""
