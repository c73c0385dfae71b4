"""Results of a test in several processes are those that MMEngine collects through files."""

import os

import torch
from forked import join_by_file, run_ranks
from mmengine import dist
from mmengine.dist import dist as module
from mmengine.evaluator import BaseMetric
from mmengine.evaluator.metric import collect_results

from poslabel_mm.stack import result_collection


class Results(BaseMetric):
    """Returns what it gets in the first process."""

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return dict(results=results)


def equal(one, other):
    return len(one) == len(other) and all(
        a['id'] == b['id'] and torch.equal(a['score'], b['score']) for a, b in zip(one, other)
    )


def _collect_as_rank(rank, folder):
    join_by_file(rank, folder / 'store')
    result_collection.PIECE = 1000  # a part is several times as long
    own = folder / str(rank)  # as on nodes that share no folder
    own.mkdir()
    os.chdir(own)
    own.rmdir()  # nobody can write there, root neither
    for lengths, size in [((5, 5), 9), ((5, 4), 9), ((3, 0), 3), ((0, 0), 0)]:
        part = [
            dict(id=2 * i + rank, score=torch.full((40,), float(i))) for i in range(lengths[rank])
        ]
        expected = module.collect_results_cpu.__wrapped__(part, size, str(folder / 'files'))
        collected = collect_results(part, size)
        if rank:
            assert expected is None and collected is None
            continue
        assert equal(collected, expected)
    metric = Results(prefix='test')
    metric.process(None, [dict(id=rank, score=torch.ones(2))])
    figures = metric.evaluate(2)  # the same for all processes
    assert [result['id'] for result in figures['test/results']] == [0, 1]


def test_two_processes_without_a_folder_for_both(tmp_path):
    assert run_ranks(_collect_as_rank, tmp_path) == [0, 0]


def test_every_name_is_changed_and_one_process_needs_nothing():
    assert dist.collect_results_cpu is module.collect_results_cpu
    assert collect_results([1, None, 2], 2) == [1, None]
