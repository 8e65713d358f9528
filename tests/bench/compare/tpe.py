"""Optuna's TPE over the same plans: params are its objective, the drop is its constraint."""

from __future__ import annotations

import math

import optuna
from tests.bench.compare.course import Candidate, Course
from tests.bench.compare.lab import DELTA, Lab
from tests.bench.compare.plain import FIRST_RATE, LEAST_RATIO
from tests.bench.compare.plans import drawn, exponents, uniform

from diminuendo.engine.formats.ladder import MAX_RUNGS
from diminuendo.engine.plan import DENSE, Plan
from diminuendo.engine.search.rng import keyed, keyed_seed
from diminuendo.engine.search.space import LayerOptions, Space
from diminuendo.engine.search.work import Tuned

STEPS = MAX_RUNGS
"""A rung is drawn as one of 0, 1, ..., `STEPS`: how far up its format's ladder, whose rungs are even in log params. A
ladder has at most `MAX_RUNGS`, and the dense layer on top."""

STARTS = (2.0, 4.0)
"""Ratios of the uniform plans that a study begins with."""

DRAWN = 6
"""Random plans that come next, before the sampler has its say."""

WORST = 100.0


def tpe(lab: Lab, course: Course) -> list[Candidate[Tuned]]:
    """Multivariate TPE that is told of uniform and of random plans first, as many as a study's startup takes."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    starts = min(course.trials, len(STARTS) + DRAWN)
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=starts,
        multivariate=True,
        seed=keyed_seed(lab.seed, "tpe") % 2**32,
    )
    study = optuna.create_study(sampler=sampler, direction="minimize")
    rng = keyed(lab.seed, "tpe starts")
    span = math.log(lab.subject.widest / LEAST_RATIO)
    targets = [LEAST_RATIO * math.exp(span * rng.uniform()) for _ in range(DRAWN)]
    plans = [uniform(lab.space, ratio) for ratio in STARTS] + [drawn(lab.space, target, rng) for target in targets]
    for plan in plans[:starts]:
        study.enqueue_trial(parameters_of(lab.space, plan))
    found = []
    for _ in range(course.trials):
        trial = study.ask()
        candidate = lab.tuned(plan_of(lab.space, trial), course.epochs, rate=FIRST_RATE)
        found.append(candidate)
        trial.set_constraint("drop", min(candidate.drop, WORST) - course.slack * DELTA)
        study.tell(trial, -math.log(candidate.ratio))
    return found


def plan_of(space: Space, trial: optuna.trial.BaseTrial) -> Plan:
    """The plan of a trial's parameters."""
    choices, taken = [], exponents(space)
    for layer in space.layers:
        ladders = layer.ladders
        if not ladders or not taken[layer.spec.name]:
            choices.append((layer.spec.name, DENSE))
            continue
        name = trial.suggest_categorical(f"{layer.spec.name}.format", list(ladders))
        rung = trial.suggest_int(f"{layer.spec.name}.rung", 0, STEPS)
        ladder = ladders[name]
        choices.append((layer.spec.name, ladder[round(rung / STEPS * (len(ladder) - 1))].choice))
    return Plan(tuple(choices))


def parameters_of(space: Space, plan: Plan) -> dict[str, str | int]:
    """Parameters of a plan, to the nearest rung that has one."""
    told: dict[str, str | int] = {}
    taken = exponents(space)
    for layer in space.layers:
        if layer.ladders and taken[layer.spec.name]:
            name, place, rungs = _place(layer, plan)
            told[f"{layer.spec.name}.format"] = name
            told[f"{layer.spec.name}.rung"] = round(place / max(1, rungs - 1) * STEPS)
    return told


def _place(layer: LayerOptions, plan: Plan) -> tuple[str, int, int]:
    """The format, the place on its ladder, and the ladder's length; dense is the top of any."""
    choice = plan[layer.spec.name]
    name = choice.format if choice != DENSE else next(iter(layer.ladders))
    ladder = layer.ladders[name]
    return name, next(i for i, option in enumerate(ladder) if option.choice == choice), len(ladder)
