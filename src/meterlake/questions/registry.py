"""All questions, by name."""

from meterlake.errors import BadInput
from meterlake.questions import (
    anomalies,
    consumption,
    forecasts,
    grid,
    quality,
    tables,
    weather,
)
from meterlake.questions.question import Question

QUESTIONS: dict[str, Question] = {
    question.name: question
    for subject in (consumption, quality, grid, anomalies, forecasts, weather, tables)
    for question in subject.QUESTIONS
}


def question_of(name: str) -> Question:
    """The question of a name. Raises BadInput where there is none."""
    if name not in QUESTIONS:
        raise BadInput(f"The questions are {', '.join(QUESTIONS)}; found '{name}'")
    return QUESTIONS[name]
