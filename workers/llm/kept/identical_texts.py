"""Send equal texts of one request for embeddings once. Pure but for the request itself."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from workers.runtime.handler.errors import BrokenVectors, UnfitVectors
from workers.runtime.handler.ports import Embeddings


async def embed_once(texts: Sequence[str], embed: Callable[[Sequence[str]], Awaitable[Embeddings]]) -> Embeddings:
    """Return a vector for each of ``texts``, in their order; ``embed`` gets each different text once."""
    places: dict[str, int] = {}
    for text in texts:
        places.setdefault(text, len(places))
    if len(places) == len(texts):
        return await embed(texts)
    try:
        return _spread(await embed(list(places)), texts, places)
    except (UnfitVectors, BrokenVectors) as error:
        reasons = {
            place: error.reasons[at] for place, text in enumerate(texts) if (at := places[text]) in error.reasons
        }
        raise type(error)(_spread(error.embeddings, texts, places), reasons) from error


def _spread(embeddings: Embeddings, texts: Sequence[str], places: Mapping[str, int]) -> Embeddings:
    return Embeddings([embeddings.vectors[places[text]] for text in texts], embeddings.model, embeddings.tokens)
