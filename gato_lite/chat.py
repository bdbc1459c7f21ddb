"""A conversation: turn after turn, with everything said so far in the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from gato_lite.exchange import Exchange, fitted
from gato_lite.fitting import Picture
from gato_lite.limits import check_max_tokens, prompt_within
from gato_lite.model import Gato
from gato_lite.sampling import Sampler
from gato_lite.writing import Writer


class Chat:
    """One conversation with the model.

    Args:
        gato: the model.
        temperature: 0 takes the likeliest piece; above 0 pieces are drawn.
        top_p: draws come from the fewest pieces whose probabilities sum to it.
        seed: of the draws.

    Example:
        >>> chat = Chat(gato)  # doctest: +SKIP
        >>> chat.say("Good morning.")  # doctest: +SKIP
    """

    def __init__(self, gato: Gato, *, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0) -> None:
        self._gato = gato
        self._sampler = Sampler(temperature, seed, top_p)
        self._writer = Writer(gato, 1)
        self.turns: list[Exchange] = []
        """What was said and answered so far."""

    @torch.inference_mode()
    def say(
        self,
        prompt: str,
        image: Picture | None = None,
        *,
        max_tokens: int = 64,
        stop: Sequence[str] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """The model's answer; only what is new is read, and the oldest turns are forgotten when the context is full.

        Args:
            prompt: what is said.
            image: (H, W, 1 to 4) uint8 picture before it, fitted as `generate` fits it.
            max_tokens: most pieces of the answer, in 1..`MOST_TOKENS`.
            stop: texts before whose first occurrence the answer ends.
            on_text: called with each new stretch of the answer as it is written.

        Raises:
            ValueError: an argument is out of range, or the turn alone fills the context.
        """
        check_max_tokens(max_tokens)
        (said,) = fitted([Exchange(image=image, prompt=prompt)], self._gato.pictures)
        # After an answer comes `end`, which is also what a document of text begins with.
        tokens = prompt_within(self._gato, [Exchange(), said] if self.turns else [said])
        hidden = self._writer.read([0], [tokens])
        (text,) = self._writer.write(hidden, max_tokens, self._sampler, stop=stop, on_text=on_text)
        self.turns.append(Exchange(image=image, prompt=prompt, text=text))
        return text
