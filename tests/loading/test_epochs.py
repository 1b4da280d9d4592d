"""Parts of an epoch cover it once, in any number of ranks and workers; passes count up whoever makes them."""

import pickle
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sspruning.errors import UsageError
from sspruning.loading.epochs import Epochs, Place, Share, after, rank_share, worker_share

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),  # DataLoader forks
    pytest.mark.filterwarnings("ignore:This DataLoader will create.*:UserWarning"),  # a machine with one core
]


def places(world_size, workers, rank=None):
    ranks = range(world_size) if rank is None else [rank]
    return [Place(r, world_size, w, workers) for r in ranks for w in range(workers)]


def batches(rank, place, size, behind=0):
    """Batches of a worker behind the first ``behind`` ones."""
    share = worker_share(rank, place, size)
    own = range(share.start, share.stop)
    return [own[at : at + size] for at in range(behind * size, len(own), size)]


def handed_over(parts):
    """Batches in the order in which a loader asks workers for them: in turn, those that have none left passed over."""
    queues, found = [iter(part) for part in parts], []
    while queues:
        for queue in list(queues):
            batch = next(queue, None)
            found.append(batch) if batch is not None else queues.remove(queue)
    return found


numbers = {"n": st.integers(0, 60), "world_size": st.integers(1, 5), "workers": st.integers(1, 5)}


@given(**numbers, size=st.integers(1, 7), equal=st.booleans())
def test_every_sample_is_read_once_over_all_ranks_and_workers(n, world_size, workers, size, equal):
    ranks = [rank_share(n, Place(rank, world_size, 0, 1), equal=equal) for rank in range(world_size)]
    parts = [worker_share(ranks[place.rank], place, size) for place in places(world_size, workers)]
    read = sorted(at for part in parts for at in range(part.start, part.stop))

    assert read == list(range(n - n % world_size if equal else n))
    sizes = {rank.size for rank in ranks}
    assert max(sizes) - min(sizes) <= (0 if equal else 1)


@given(**numbers, size=st.integers(1, 7), stop=st.integers(0, 60))
def test_going_on_hands_over_what_would_have_come_next(n, world_size, workers, size, stop):
    """And there are no more batches than have to be, the smaller one last."""
    for rank in range(world_size):
        share = rank_share(n, Place(rank, world_size, 0, 1), equal=False)
        whole = handed_over([batches(share, place, size) for place in places(world_size, workers, rank)])
        assert [len(batch) for batch in whole] == [size] * (share.size // size) + [share.size % size] * (
            share.size % size > 0
        )

        read = min(stop, len(whole))
        rest = [after(place, read) for place in places(world_size, workers, rank)]
        assert handed_over([batches(share, place, size, behind) for place, behind in rest]) == whole[read:]


def test_passes_in_one_process_count_from_0():
    epochs = Epochs()
    assert epochs.last == -1
    assert [epochs.begin() for _ in range(3)] == [(0, 0), (1, 0), (2, 0)]
    assert epochs.last == 2


def test_an_epoch_is_gone_on_with_once():
    epochs = Epochs()
    epochs.start_at(7, 40)
    assert [epochs.begin() for _ in range(2)] == [(7, 40), (8, 0)]
    epochs.start_at(7)
    assert epochs.begin() == (7, 0)


def test_a_copy_counts_for_itself():
    epochs = Epochs()
    epochs.start_at(3, 5)
    copy = pickle.loads(pickle.dumps(epochs))  # noqa: S301
    assert copy.begin() == epochs.begin() == (3, 5)
    assert [copy.begin()[0], copy.begin()[0], epochs.begin()[0]] == [4, 5, 4]


@pytest.mark.parametrize(("epoch", "samples"), [(-1, 0), (1 << 30, 0), (0, -1)])
def test_numbers_out_of_range_are_refused(epoch, samples):
    with pytest.raises(UsageError, match="expected"):
        Epochs().start_at(epoch, samples)


class Told(torch.utils.data.IterableDataset):
    """What `Epochs` says, from every worker, some of which are late."""

    def __init__(self):
        self.epochs = Epochs()

    def __iter__(self):
        return iter(["{} {}".format(*self.epochs.begin())] * 2)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_of_one_pass_agree_and_the_next_pass_is_the_next_epoch(persistent):
    told = Told()
    loader = torch.utils.data.DataLoader(told, batch_size=None, num_workers=2, persistent_workers=persistent)
    assert list(loader) == ["0 0"] * 4
    assert list(islice(loader, 1)) == ["1 0"]  # a pass that is not read to its end
    assert list(loader) == ["2 0"] * 4
    told.epochs.start_at(9, 6)
    assert list(loader) == ["9 6"] * 4
    assert list(loader) == ["10 0"] * 4
    assert told.epochs.last == 10


def test_a_share_knows_its_size():
    assert Share(3, 10).size == 7
