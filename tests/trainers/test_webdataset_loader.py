"""webdataset yields the kept samples, whole, in any number of workers."""

from collections import Counter

import pytest
import torch
import webdataset

from sspruning.trainers.shards import paths_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),  # DataLoader forks
    pytest.mark.filterwarnings("ignore:This DataLoader will create.*:UserWarning"),  # a machine with one core
]


def whole(sample):
    return {suffix: data for suffix, data in sample.items() if not suffix.startswith("__")}


@pytest.mark.parametrize("kind", ["captioned", "mixed", "long_names"])
def test_members_are_those_of_the_source_byte_by_byte(folder, kind):
    made = folder(kind)
    found = {
        sample["__key__"]: whole(sample) for sample in webdataset.WebDataset(paths_of(made.output), shardshuffle=0)
    }
    assert found == made.content


def test_two_workers_of_a_data_loader_yield_each_sample_once(folder):
    made = folder("captioned")
    dataset = webdataset.WebDataset(paths_of(made.output), shardshuffle=3).shuffle(10).decode("pil")
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2)
    found = Counter(sample["__key__"] for sample in loader)
    assert found == Counter(list(made.content))
