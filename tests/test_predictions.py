import torch

from poslabel_mm.tokens import OffsetPredictions, PlacePredictions


def test_places_and_costs_from_probabilities():
    probabilities = torch.tensor([[[0.1, 0.0, 0.7, 0.2], [0.25, 0.5, 0.25, 0.0]]])
    predictions = PlacePredictions(
        (2, 2), torch.tensor([[2, 0]]), torch.zeros(1, 2, 2), probabilities
    )
    assert predictions.places().tolist() == [[2, 1]]
    costs = predictions.costs()
    assert costs.isfinite().all()
    torch.testing.assert_close(costs[0, 1, :3], -torch.tensor([0.25, 0.5, 0.25]).log())


def test_places_and_costs_from_coordinates():
    coordinates = torch.tensor([[[0.4, 1.6], [-3.0, 9.0], [1.0, 0.0]]])
    predictions = PlacePredictions((2, 3), torch.tensor([[2, 2, 3]]), coordinates)
    assert predictions.places().tolist() == [[2, 2, 3]]
    torch.testing.assert_close(predictions.costs()[0, 2], torch.tensor([1.0, 2, 5, 0, 1, 4]))


def test_offsets_are_query_minus_key_and_give_their_places_back():
    places = torch.tensor([[5, 0, 3]])
    exact = OffsetPredictions((2, 3), places, torch.zeros(1, 3, 3, 2))
    assert exact.true_offsets()[0, 0, 1].tolist() == [1, 2]
    assert exact.true_offsets()[0, 1, 2].tolist() == [-1, 0]
    exact = exact._replace(offsets=exact.true_offsets().float())
    assert exact.to_places().places().tolist() == places.tolist()
    torch.testing.assert_close(
        exact.to_places().coordinates, torch.tensor([[[1.0, 2.0], [0.0, 0.0], [1.0, 0.0]]])
    )


def test_offsets_need_not_agree_with_each_other():
    # Least squares over all pairs, solved by torch.linalg for comparison.
    generator = torch.Generator().manual_seed(0)
    offsets = torch.randn(1, 4, 4, 2, generator=generator)
    rows, targets = [], []
    for i in range(4):
        for j in range(4):
            row = torch.zeros(4)
            row[i] += 1
            row[j] -= 1
            rows.append(row)
            targets.append(offsets[0, i, j])
    rows.append(torch.ones(4))  # the mean place of all four is (0.5, 0.5)
    targets.append(torch.full((2,), 2.0))
    solution = torch.linalg.lstsq(torch.stack(rows), torch.stack(targets)).solution
    predictions = OffsetPredictions((2, 2), torch.arange(4).unsqueeze(0), offsets)
    torch.testing.assert_close(predictions.to_places().coordinates[0], solution)
