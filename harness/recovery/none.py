"""None: the pruned weights as they are."""

from dataclasses import dataclass

from harness.recovery.base import NO_RECOVERY, RECOVERIES, Recovered, Recovery, RecoveryContext


@RECOVERIES.register(NO_RECOVERY)
@dataclass(frozen=True, slots=True)
class NoRecovery(Recovery):
    """The pruned weights as they are."""

    changes_model = False

    def recover(self, context: RecoveryContext) -> Recovered:
        raise AssertionError("there is nothing to do")
