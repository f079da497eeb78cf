"""Paid answers are kept: no job pays twice, and identical questions of one owner share an answer if their stage does.

Who answers questions uses :class:`Kept` like this::

    question = question_of(identity, messages, into=into, parameters=parameters, share_for=share_for)
    if (found := await kept.find(question)) and (answer := restore(found, question, into)):
        return answer  # nothing was paid now; ``answer.cached_from`` is set if another job paid for it
    try:
        answer = ...  # reserve, call, settle
    except BaseException:
        await kept.drop(question)
        raise
    await kept.keep(question, KeptAnswer.of(answer))

Who settles calls hands what :func:`answer_to_keep` returns to ``Admission.settle``: then the answer is committed by the
statement of the call's row in the ledger, and ``keep`` has nothing left to write.
"""

from workers.llm.kept.answers import KeptAnswer, restore
from workers.llm.kept.ports import Kept
from workers.llm.kept.questions import AskedElsewhereError, Question, question_of
from workers.llm.kept.settling import AnswerToKeep, Asking, answer_to_keep, being_asked

__all__ = [
    "AnswerToKeep",
    "AskedElsewhereError",
    "Asking",
    "Kept",
    "KeptAnswer",
    "Question",
    "answer_to_keep",
    "being_asked",
    "question_of",
    "restore",
]
