from tests.clones import hear_signals

hear_signals()
