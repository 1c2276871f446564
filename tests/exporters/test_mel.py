"""The spectrogram program against the feature extractor of transformers, in PyTorch and as a saved program."""

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from transformers import SeamlessM4TFeatureExtractor, WhisperConfig, WhisperFeatureExtractor

from optimum_ane.errors import UnsupportedModelError
from optimum_ane.exporters.mel import MelProgram, whisper_extractor
from optimum_ane.runtimes.portable import PortableSession
from optimum_ane.targets.coreml.build import ConvertibleFunction, build_program
from optimum_ane.targets.coreml.conversion import GRAPH_CONVERSIONS
from optimum_ane.targets.coreml.metadata import Metadata
from optimum_ane.validation.psnr import psnr

RATE, SECONDS = 16000, 30


def sounds():
    random = np.random.default_rng(0)
    time = np.arange(SECONDS * RATE) / RATE
    sweep = np.sin(2 * np.pi * (50 + 120 * time) * time)
    return {
        "silence": np.zeros(SECONDS * RATE),
        "clipped noise": np.clip(2 * random.standard_normal(SECONDS * RATE), -1, 1),
        "a short sweep": sweep[: 3 * RATE + 77],
        "quiet": 3e-4 * sweep,
        "loud after silence": np.concatenate([np.zeros(20 * RATE), sweep[: 5 * RATE]]),
        "one click at the end": np.eye(1, SECONDS * RATE, SECONDS * RATE - 1)[0],
    }


def padded(sound, samples):
    return np.pad(sound, (0, samples - len(sound)))[None].astype(np.float32)


def save(extractor, path):
    build_program(
        [
            ConvertibleFunction(
                "main",
                lambda: MelProgram(extractor),
                {"audio": torch.zeros(1, extractor.n_samples)},
                ["input_features"],
            )
        ],
        path,
        precision="float32",
        minimum_deployment_target="iOS16",
        class_labels=None,
        metadata=Metadata("", "", "", ""),
        conversion=GRAPH_CONVERSIONS[0],
    )
    return PortableSession(path)


@pytest.fixture(scope="module", params=[80, 128])
def mel(request, tmp_path_factory):
    extractor = WhisperFeatureExtractor(feature_size=request.param)
    return extractor, save(extractor, tmp_path_factory.mktemp("mel") / "mel.mlpackage")


@pytest.mark.parametrize("kind", sounds())
def test_it_makes_the_spectrograms_of_the_feature_extractor(mel, kind):
    extractor, session = mel
    sound = sounds()[kind]
    expected = extractor(sound, sampling_rate=RATE, return_tensors="np").input_features
    given = padded(sound, extractor.n_samples)
    module = MelProgram(extractor)(torch.from_numpy(given)).numpy()
    program = session.predict({"audio": given})["input_features"]
    assert program.dtype == np.float32
    assert psnr(expected, module) >= 110
    assert psnr(expected, program) >= 110
    # Behind a loud place differences are small numbers: they count by themselves.
    assert np.abs(expected - program).max() < 1e-3


def test_recorded_speech(mel, shared):
    extractor, session = mel
    _, samples = wavfile.read(shared / "data/speech/s01.wav")
    sound = samples.astype(np.float32) / 32768
    expected = extractor(sound, sampling_rate=RATE, return_tensors="np").input_features
    assert psnr(expected, session.predict({"audio": padded(sound, extractor.n_samples)})["input_features"]) >= 110


@pytest.mark.parametrize(("n_fft", "hop"), [(256, 200), (512, 100)])
def test_other_frames_than_whispers(n_fft, hop):
    extractor = WhisperFeatureExtractor(feature_size=20, n_fft=n_fft, hop_length=hop, chunk_length=2)
    sound = sounds()["a short sweep"][: 2 * RATE]
    expected = extractor(sound, sampling_rate=RATE, return_tensors="np").input_features
    module = MelProgram(extractor)(torch.from_numpy(padded(sound, extractor.n_samples))).numpy()
    assert psnr(expected, module) >= 110


def test_the_extractor_has_to_fit_the_model():
    config = WhisperConfig(num_mel_bins=80, max_source_positions=1500)
    assert whisper_extractor(config, None).feature_size == 80
    for extractor, message in (
        (WhisperFeatureExtractor(feature_size=128), "128 × 3000 spectrograms .* takes 80 × 3000"),
        (WhisperFeatureExtractor(feature_size=80, chunk_length=20), "80 × 2000 spectrograms"),
        (WhisperFeatureExtractor(feature_size=80, dither=0.01), "adds noise"),
        (SeamlessM4TFeatureExtractor(), "is a SeamlessM4TFeatureExtractor"),
    ):
        with pytest.raises(UnsupportedModelError, match=message):
            whisper_extractor(config, extractor)
