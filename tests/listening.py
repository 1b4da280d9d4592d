"""Progress for tests that want to know what was said."""

from sspruning.progress import SilentProgress


class Listening(SilentProgress):
    """Progress that remembers its notes."""

    def __init__(self):
        super().__init__()
        self.said = []

    def note(self, text):
        self.said.append(text)
