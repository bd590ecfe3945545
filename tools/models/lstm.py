"""The medium word model of Zaremba et al. 2014, "Recurrent Neural Network Regularization"."""

from torch import Tensor, nn

UNITS = 650
LAYERS = 2
VOCABULARY = 10_000  # of the Penn Treebank


class WordModel(nn.Module):
    """Embedding, two LSTM layers, and logits of the next word."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, UNITS)
        self.recurrent = nn.LSTM(UNITS, UNITS, LAYERS, batch_first=True)
        self.output = nn.Linear(UNITS, VOCABULARY)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Ids int64 `[N, T]` to logits `[N, T, 10000]`."""
        states, _ = self.recurrent(self.words(input_ids))
        return self.output(states)


def lstm_medium() -> nn.Module:
    """The model of 650 units; each gate has two biases, as in torch."""
    return WordModel()
