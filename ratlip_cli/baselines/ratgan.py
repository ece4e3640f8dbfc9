"""RAT-GAN: Ye et al., "Recurrent Affine Transformation for Text-to-image Synthesis", 2022.

DF-GAN's generator of 2020, whose affines read the hidden state of one LSTM that passes all of them, and its
discriminator of that time, of up to 16 nf channels (`dfgan.Discriminator`). Only here does T enter at every step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ratlip_cli.baselines.dfgan import Generator2020


class Generator(Generator2020):
    """Noise and text vectors to images.

    Args:
        image_size: side S of the images.
        channels: channels nf of the last block.
        noise_dim, text_dim: lengths of z and T.
        hidden_size: units of the LSTM, and of the hidden layer of every affine's MLPs.
        affines: how many affines stand before each convolution: two, and three in the published model of flowers.
    """

    def __init__(
        self, image_size: int, channels: int, noise_dim: int, text_dim: int, hidden_size: int, affines: int = 2
    ) -> None:
        super().__init__(image_size, channels, noise_dim, hidden_size, hidden_size, affines)
        self.lstm = SharedLSTM(noise_dim, text_dim, hidden_size)

    def conditions(self, noise: Tensor, text: Tensor) -> Tensor:
        """The LSTM's hidden states (N,B,hidden_size), a step before each of the N affines."""
        states: Tensor = self.lstm(noise, text, self.affines)
        return states


class SharedLSTM(nn.Module):
    """One LSTM for all affines: the noise makes its first states, T is its input at every step."""

    def __init__(self, noise_dim: int, text_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.noise_to_hidden = nn.Linear(noise_dim, hidden_size)
        self.noise_to_cell = nn.Linear(noise_dim, hidden_size)
        self.text_to_gates = nn.Linear(text_dim, 4 * hidden_size)
        self.hidden_to_gates = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        for weights in (*self.text_to_gates.parameters(), *self.hidden_to_gates.parameters()):
            nn.init.uniform_(weights, -(hidden_size**-0.5), hidden_size**-0.5)

    def forward(self, noise: Tensor, text: Tensor, steps: int) -> Tensor:
        """z (B,noise_dim) and T (B,d) -> the hidden states (steps,B,hidden_size) after each step."""
        hidden, cell = self.noise_to_hidden(noise), self.noise_to_cell(noise)
        from_text = self.text_to_gates(text)  # the same at every step
        states = []
        for _ in range(steps):
            i, f, g, o = (from_text + self.hidden_to_gates(hidden)).chunk(4, dim=1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
            states.append(hidden)
        return torch.stack(states)
