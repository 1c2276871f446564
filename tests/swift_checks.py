"""What the Swift of a card must be, as far as that can be told without a compiler."""

import re

from optimum_ane.hub.card import make_card
from optimum_ane.hub.card_package import read_card_package
from optimum_ane.package.manifest import Manifest


def swift_of(directory):
    """The Swift of a package's card."""
    card = make_card([read_card_package("", directory)], repo_id=None)
    return card.split("```swift\n")[1].split("```")[0]


def check_brackets(swift):
    """Brackets outside of strings and comments close, and no word of Python is left."""
    bare = re.sub(r"//.*", "", re.sub(r'"(\\.|[^"\\\n])*"', "", swift))
    stack = []
    for character in bare:
        if character in "([{":
            stack.append({"(": ")", "[": "]", "{": "}"}[character])
        elif character in ")]}":
            assert stack.pop() == character
    assert stack == []
    assert "None" not in bare


def check_writer(directory, swift):
    """The Swift of an encoder and a decoder gives each function that it calls what the program takes."""
    programs = {program.name: program for program in Manifest.read(directory).programs}
    functions = {function.name: function for function in programs["decoder"].functions}
    step = swift[swift.index("infer.prediction(") : swift.index("if position + 1 < tokens.count")]
    named = re.findall(r'"(\w+)": (?:MLFeatureValue\(|shown)', step)
    assert named == [tensor.name for tensor in functions["infer"].inputs]
    masks = {tensor.name: tensor for tensor in functions["infer"].inputs if tensor.name.endswith("mask")}
    context, columns = masks["causal_mask"].shape[-1], masks["encoder_mask"].shape[-1]
    assert f"let context = {context}, columns = {columns}\n" in swift
    assert {tensor.dtype for tensor in masks.values()} == {"float16"}
    assert swift.count("MLShapedArray<Float16>") == 2
    assert '["encoder_hidden_states": encoded]' in swift
    assert 'load("decoder.mlpackage", "begin", .cpuAndNeuralEngine)' in swift
    inputs = [tensor.name for tensor in programs["encoder"].functions[0].inputs]
    encoded = swift[swift.index("encoder.prediction(") :]
    assert re.findall(r'"(input_ids|attention_mask|pixel_values|input_features)":', encoded)[: len(inputs)] == inputs
    check_brackets(swift)
