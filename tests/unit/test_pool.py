"""Work in threads: what is submitted runs in order, and nobody waits for ever."""

import gc
import threading
import weakref

import pytest

from dynamo_entry.pool import Pool, Promise


@pytest.fixture
def pool():
    made = Pool(1, "test")
    yield made
    made.shutdown(cancel=True)


@pytest.fixture
def held(pool):
    """The pool's only thread waits for this event."""
    event, begun = threading.Event(), threading.Event()
    pool.submit(lambda: (begun.set(), event.wait()))
    begun.wait()
    yield event
    event.set()


def test_results_and_errors_come_back(pool):
    assert pool.submit(divmod, 7, 2).result() == (3, 1)
    failed = pool.submit(divmod, 7, 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            failed.result()
    assert pool.submit(divmod, 7, 2).result() == (3, 1)


def test_in_order(pool, held):
    seen = []
    promises = [pool.submit(seen.append, number) for number in range(5)]
    assert not seen
    held.set()
    promises[-1].result()
    assert seen == [0, 1, 2, 3, 4]


def test_several_wait_for_one(pool, held):
    promise, seen = pool.submit(int, "3"), []
    waiting = [threading.Thread(target=lambda: seen.append(promise.result())) for _ in range(3)]
    for thread in waiting:
        thread.start()
    held.set()
    for thread in waiting:
        thread.join()
    assert seen == [3, 3, 3]


def test_cancelled_work_does_not_run_and_nobody_waits_for_it(pool, held):
    seen, failures = [], []
    cancelled = pool.submit(seen.append, 1)

    def wait():
        try:
            cancelled.result()
        except RuntimeError as error:
            failures.append(str(error))

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    cancelled.cancel()
    held.set()
    pool.submit(seen.append, 2).result()
    assert seen == [2]
    waiting.join(20)
    assert failures == ["it was cancelled"]


@pytest.mark.parametrize("cancel", [False, True])
def test_shutdown_ends_the_threads(pool, held, cancel):
    begun = Promise()
    behind = pool.submit(begun.give, 1)
    threading.Timer(0.05, held.set).start()
    pool.shutdown(cancel=cancel)
    if cancel:
        with pytest.raises(RuntimeError, match="shut down"):
            behind.result()
    else:
        assert begun.result() == 1
    assert not any(thread.name.startswith("test-") for thread in threading.enumerate())
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(int)
    pool.shutdown()


def test_as_many_at_once_as_threads():
    pool, together = Pool(3, "test"), threading.Barrier(3)
    for promise in [pool.submit(together.wait, 5) for _ in range(3)]:
        promise.result()
    pool.shutdown()


def test_what_was_done_is_let_go_of(pool):
    class Large:
        pass

    argument = Large()
    gone = weakref.ref(argument)
    promise = pool.submit(id, argument)
    del argument
    promise.result()
    pool.submit(int).result()
    gc.collect()
    assert gone() is None
