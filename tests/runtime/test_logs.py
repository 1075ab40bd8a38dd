"""What libraries and worker processes log reaches the log of the call."""

import logging
import warnings

from bids_semantoks.runtime import processes
from bids_semantoks.runtime.logs import redirect_libraries


def build_noisy_worker():
    def work(job):
        logging.getLogger("bids_semantoks").debug("detail %d", job)
        logging.getLogger("somebody.else").warning("library %d", job)
        warnings.warn(f"python {job}", stacklevel=1)
        try:
            raise ZeroDivisionError(f"zero {job}")
        except ZeroDivisionError:
            logging.getLogger("bids_semantoks").warning("caught", exc_info=True)
        return job

    return work


def test_records_of_worker_processes_reach_the_parent(caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        results = dict(processes.run_jobs(build_noisy_worker, (), [5, 7, 9], n_procs=2))
    assert results == {0: 5, 1: 7, 2: 9}
    for job in (5, 7, 9):
        for text in (f"detail {job}", f"library {job}", f"python {job}", f"ZeroDivisionError: zero {job}"):
            assert text in caplog.text
    assert capfd.readouterr() == ("", "")


def test_libraries_with_handlers_of_their_own_are_redirected(caplog, capfd):
    noisy = logging.getLogger("nibabel.global")
    own = logging.StreamHandler()
    noisy.addHandler(own)
    try:
        redirect_libraries()
        noisy.warning("pixdim is odd")
    finally:
        noisy.removeHandler(own)
        logging.captureWarnings(False)
    assert "pixdim is odd" in caplog.text
    assert capfd.readouterr() == ("", "")
