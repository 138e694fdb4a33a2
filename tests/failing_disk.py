"""A disk that loses power, or runs full, at a step of one's choice."""

import os

from sottovoce.models import atomic


class PowerCut(BaseException):
    """Nothing runs after it, clean-up neither."""


class FailingDisk:
    """Counts the steps that change the disk, and fails at the k-th: as a power cut, after which nothing works, or once.

    A write that is cut leaves half of its bytes.
    """

    def __init__(self, monkeypatch, at=None, error=PowerCut):
        self.steps, self.at, self.error, self.dead = [], at, error, False
        monkeypatch.setattr(os, "fsync", lambda _: None)  # counted below; the test's own disk may take its time
        for name in ("replace", "rename", "unlink", "mkdir", "fsync", "chmod"):
            monkeypatch.setattr(os, name, self.guarded(name, getattr(os, name)))
        monkeypatch.setattr(atomic.tempfile, "mkstemp", self.guarded("mkstemp", atomic.tempfile.mkstemp))
        real = os.fdopen

        def fdopen(handle, *rest, **named):
            file = real(handle, *rest, **named)
            write = file.write

            class Writer:
                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    file.close()

                def __getattr__(self, name):
                    return getattr(file, name)

                def write(this, data):  # noqa: N805 - two selves
                    try:
                        self.step("write")
                    except BaseException:
                        write(data[: len(data) // 2])
                        raise
                    return write(data)

            return Writer()

        monkeypatch.setattr(os, "fdopen", fdopen)

    def step(self, name):
        if self.dead:
            raise self.error
        self.steps.append(name)
        if len(self.steps) == self.at:
            self.dead = self.error is PowerCut
            raise self.error

    def guarded(self, name, real):
        def call(*arguments, **named):
            self.step(name)
            return real(*arguments, **named)

        return call


def full_disk():
    return OSError(28, "No space left on device")
