"""Whether a setting of a configuration changes what an original answers: a test of one that does not tests nothing."""

from tiny_models import answer, make_inputs, make_original, psnr

VISIBLE = 60.0
"""dB. Answers nearer to each other than this count as the same; modules are held to 100 dB."""


def assert_each_matters(name, task, settings, others=None, **inputs):
    """Fails unless each setting, beside the others, changes the answer of the original.

    `others` holds settings that the others need and that are not tried themselves; `inputs` are `make_inputs`'.
    """
    for key in settings:
        changed, plain = _originals(name, task, settings | (others or {}), key)
        given = make_inputs(changed, **inputs)
        answers = zip(answer(changed, given), answer(plain, make_inputs(plain, **inputs)), strict=True)
        if not any(_differ(*pair, given["attention_mask"].bool()) for pair in answers):
            raise AssertionError(f"{key}={settings[key]!r} changes no answer of {name} for {task}")


def _originals(name, task, settings, without):
    """Two originals over one set of weights: with all settings, and with all but one."""
    rest = {key: value for key, value in settings.items() if key != without}
    changed, plain = make_original(name, task, **settings), make_original(name, task, seed=1, **rest)
    weights = dict(changed.named_parameters())
    for key, parameter in plain.named_parameters():
        # What both have is the same, as far as their shapes go; what one of them lacks is what the setting changes.
        if key in weights:
            part = tuple(slice(min(extents)) for extents in zip(parameter.shape, weights[key].shape, strict=True))
            parameter[part] = weights[key][part]
    return changed, plain


def _differ(first, second, tokens):
    if first.shape != second.shape:
        return True
    if first.shape[:2] == tokens.shape and first.shape[1] > 1:
        first, second = first[tokens], second[tokens]
    return psnr(second, first) < VISIBLE
