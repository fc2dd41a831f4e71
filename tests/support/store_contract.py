"""What every store must do: a test class to subclass, with a ``store`` fixture that has no object yet."""

import threading

import pytest

from dynamo_entry.errors import AlreadyExists, Corrupt, NotFound

MIB = 1 << 20


def publish(store, *pieces, replace=False):
    writer = store.open_writer(replace=replace)
    writer.append(*pieces)
    return writer.commit()


class StoreContract:
    """``store``: a Store at a location where nothing is; ``again``: makes another Store of the same location."""

    def test_nothing_there(self, store):
        """Absence is said, not guessed."""
        for call in (store.stat, store.delete, lambda: store.read_range(0, 1)):
            with pytest.raises(NotFound):
                call()
        assert list(store.leftovers()) == []

    def test_found_writable(self, store, again):
        """Finding that out leaves nothing, whether an object is there or not."""
        store.check_writable()
        assert list(store.leftovers()) == []
        with pytest.raises(NotFound):
            again().stat()
        first = publish(store, b"first")
        again().check_writable()
        assert again().stat() == first

    def test_published_whole(self, store, again):
        """What was appended in pieces of all kinds is one object, seen by everybody."""
        writer = store.open_writer()
        writer.append(b"abc", b"", memoryview(b"defg")[1:], bytearray(b"h"))
        writer.append(bytes(3 * MIB))
        writer.append()
        published = writer.commit()
        assert published.size == 7 + 3 * MIB
        for seen in (store, again()):
            assert seen.stat() == published
            assert bytes(seen.read_range(0, 8)) == b"abcefgh\0"
            assert bytes(seen.read_range(3, 3 * MIB)) == b"efgh" + bytes(3 * MIB - 4)
            assert bytes(seen.read_range(7 + 3 * MIB, 0)) == b""

    @pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 3 * MIB])
    def test_the_end_is_read_with_the_size(self, store, again, size):
        """Of an object that is shorter than what is asked for: all of it."""
        with pytest.raises(NotFound):
            store.read_end(10)
        content = bytes(n % 251 for n in range(size))
        published = publish(store, content)
        reader = again()
        found, data = reader.read_end(10)
        assert (found, bytes(data)) == (published, content[-10:])
        assert bytes(reader.read_range(0, min(size, 5))) == content[:5]

    def test_buffers_may_be_used_again(self, store):
        """An appended buffer is the caller's again at once."""
        writer = store.open_writer()
        buffer = bytearray(MIB)
        for n in range(8):
            buffer[:] = bytes([n]) * MIB
            writer.append(buffer)
        writer.commit()
        assert bytes(store.read_range(0, 8 * MIB)) == b"".join(bytes([n]) * MIB for n in range(8))

    def test_invisible_until_committed(self, store, again):
        """Nothing is there before commit, and nothing after abort."""
        writer = store.open_writer()
        writer.append(bytes(MIB))
        with pytest.raises(NotFound):
            again().stat()
        writer.abort()
        writer.abort()
        with pytest.raises(NotFound):
            again().stat()
        assert list(store.leftovers()) == []

    def test_the_first_one_stays(self, store, again):
        """A second object is refused and leaves the first as it is."""
        first = publish(store, b"first")
        writer = again().open_writer()
        writer.append(b"second")
        with pytest.raises(AlreadyExists):
            writer.commit()
        writer.abort()
        assert again().stat() == first
        assert bytes(again().read_range(0, 5)) == b"first"
        assert list(store.leftovers()) == []

    def test_replaced_when_asked(self, store, again):
        """With ``replace`` the second one takes the place, and its version is another."""
        first = publish(store, b"first")
        second = publish(again(), b"later", replace=True)
        assert second.version != first.version
        assert again().stat() == second
        assert bytes(again().read_range(0, 5)) == b"later"

    def test_reads_beyond_the_end(self, store):
        """An object that is too short is damaged: small reads and large ones."""
        publish(store, bytes(MIB))
        for offset, length in ((MIB - 5, 6), (MIB, 1), (0, MIB + 1), (4096, 4 * MIB), (1 << 40, 1)):
            with pytest.raises(Corrupt) as caught:
                store.read_range(offset, length)
            assert caught.value.reason == "Truncated"

    def test_deleted(self, store, again):
        """What is deleted is gone, and the place is free."""
        publish(store, b"x")
        store.delete()
        with pytest.raises(NotFound):
            again().stat()
        publish(again(), b"y")

    def test_usable_after_close(self, store):
        """Closing frees what is held; the store can be used on."""
        publish(store, b"x")
        store.close()
        assert bytes(store.read_range(0, 1)) == b"x"
        store.close()

    def test_racing_writers(self, store, again):
        """Of many who publish at once exactly one succeeds, and its object is what is there."""
        writers = [again().open_writer() for _ in range(8)]
        barrier = threading.Barrier(len(writers))
        won, lost = [], []

        def race(number):
            writers[number].append(bytes([number]) * 1000)
            barrier.wait(10)
            try:
                writers[number].commit()
                won.append(number)
            except AlreadyExists:
                lost.append(number)

        threads = [threading.Thread(target=race, args=(n,)) for n in range(len(writers))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert len(lost) == 7
        assert bytes(again().read_range(0, 1000)) == bytes(won) * 1000
        assert list(store.leftovers()) == []
