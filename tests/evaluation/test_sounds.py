"""One sound of a stranger's: what is done to it, and what is refused."""

import io
import struct

import numpy as np
import pytest
import soundfile

from optimum_ane.errors import DatasetError
from optimum_ane.evaluation import sounds
from optimum_ane.evaluation.sounds import open_sound, read_sound

RATE = 16_000


def encode(samples, rate=RATE, kind="WAV", subtype="FLOAT"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def tone(rate, hertz=440.0, seconds=0.5):
    return np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate).astype(np.float32)


def test_a_sound_of_the_models_own_rate_is_not_touched():
    samples = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    sound = open_sound(encode(samples), "s.wav", RATE)
    assert np.array_equal(sound.samples, samples)
    assert (sound.rate, sound.notices, sound.seconds) == (RATE, (), 5000 / RATE)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 47_999])
def test_another_rate_becomes_the_models(rate):
    sound = open_sound(encode(tone(rate), rate), "s.wav", RATE)
    expected = tone(RATE)
    assert abs(len(sound.samples) - len(expected)) <= 1
    inside = slice(500, 7000)  # the filter rings at the ends
    assert np.abs(sound.samples[inside] - expected[inside]).max() < 0.01
    assert sound.notices == (f"{rate:,} Hz brought to 16,000 Hz",)


def test_what_the_lower_rate_cannot_hold_is_filtered_away():
    sound = open_sound(encode(tone(48_000, hertz=12_000), 48_000), "s.wav", RATE)
    assert np.abs(sound.samples[500:7000]).max() < 0.01


def test_channels_are_mixed_down():
    left, right = tone(RATE), tone(RATE, 1000)
    sound = open_sound(encode(np.stack([left, right], 1)), "s.wav", RATE)
    assert np.allclose(sound.samples, (left + right) / 2, atol=1e-6)
    assert sound.notices == ("2 channels mixed down to one",)


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"),
                          ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("W64", "PCM_16")]
)  # fmt: skip
def test_formats(kind, subtype, tmp_path):
    path = tmp_path / f"tone.{kind.lower()}"
    path.write_bytes(encode(0.5 * tone(RATE), kind=kind, subtype=subtype))
    sound = read_sound(path, RATE)
    assert len(sound.samples) >= RATE // 2
    spectrum = np.abs(np.fft.rfft(sound.samples[: RATE // 2]))
    assert spectrum.argmax() * 2 == 440


def wav_header(rate=RATE, channels=1, promised=2**31):
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 2**31, b"WAVE", b"fmt ", 16, 1, channels, rate, rate * 2, 2, 16)
    return head + struct.pack("<4sI", b"data", promised)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the sound is empty"),
        (b"MZ\x90\x00" * 99, "no sound of a format that is read"),
        (b"RIFF", "the sound cannot be read"),
        (wav_header()[:30], "the sound cannot be read"),
        (wav_header(promised=0), "the sound holds no samples"),
        (wav_header(rate=3) + bytes(9000), r"3 samples a second; 1,000 to 384,000 are read"),
        (wav_header(rate=2**31 - 1) + bytes(9000), r"samples a second"),
        (wav_header(channels=200) + bytes(9000), r"200 channels; up to 32 are read"),
        (encode(np.array([0.5, np.nan, 0], np.float32)), "NaN or infinity, first at sample 1"),
        (encode(np.array([0.5, 0, -np.inf], np.float32)), "NaN or infinity, first at sample 2"),
        (encode(np.zeros(9000, np.float32))[:9000], r"cut off: 8,9\d\d bytes of sound are there"),
        (b"fLaC" + bytes(400), "the sound cannot be read"),
        (b"OggS" + bytes(400), "the sound cannot be read"),
        (b"ID3" + bytes(4000), "the sound cannot be read"),
    ],
    # Not of the bytes: a file of floats holds the time at which it was made, and workers must agree on the names.
    ids=["empty", "program", "no header", "half a header", "no samples", "slow", "fast", "channels", "NaN", "infinity",
         "half", "FLAC", "Ogg", "MP3"],
)  # fmt: skip
def test_hostile_files_end_in_an_error_of_ours(data, message):
    with pytest.raises(DatasetError, match=message):
        open_sound(data, "s.wav", RATE, 7, "audio")


@pytest.mark.parametrize("promised", [2**31 - 1, 2**32 - 1])
def test_a_sound_that_was_streamed_may_promise_the_most(promised):
    assert len(open_sound(wav_header(promised=promised) + bytes(8000), "s.wav", RATE).samples) == 4000


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "W64", "FLAC"])
def test_half_a_file_is_an_error(kind):
    whole = encode(tone(RATE), kind=kind, subtype="PCM_16")
    assert len(open_sound(whole, "s.wav", RATE).samples) == RATE // 2
    with pytest.raises(DatasetError, match=r"is cut off|cannot be read"):
        open_sound(whole[: len(whole) // 2], "s.wav", RATE)


def test_a_low_rate_promises_no_more_samples_than_are_read(monkeypatch):
    monkeypatch.setattr(sounds, "MAX_SAMPLES", 16_000)
    with pytest.raises(DatasetError, match="more than 1,000 samples, which is the limit at its rate"):
        open_sound(encode(np.zeros(1500, np.float32), rate=1000), "s.wav", RATE)


def test_files_and_sounds_that_are_too_large(monkeypatch, tmp_path):
    monkeypatch.setattr(sounds, "MAX_SAMPLES", 4000)
    with pytest.raises(DatasetError, match=r"s\.wav, row 3, column audio: the sound has more than 4,000 samples"):
        open_sound(encode(tone(RATE)), "s.wav", RATE, 3, "audio")
    monkeypatch.setattr(sounds, "MAX_BYTES", 100)
    (tmp_path / "s.wav").write_bytes(encode(tone(RATE)))
    with pytest.raises(DatasetError, match=r"more than 100 bytes"):
        read_sound(tmp_path / "s.wav", RATE)


def test_names(tmp_path):
    with pytest.raises(DatasetError, match=r"missing\.wav: .*No such file.*check the path"):
        read_sound(tmp_path / "missing.wav", RATE)
    (tmp_path / "voice.m4a").touch()
    with pytest.raises(DatasetError, match=r"kind \.m4a are not read.*ffmpeg -i voice\.m4a"):
        read_sound(tmp_path / "voice.m4a", RATE)


def test_random_damage_never_ends_otherwise():
    random = np.random.default_rng(5)
    sound = encode(tone(RATE, seconds=0.02), kind="WAV", subtype="PCM_16")
    flac = encode(tone(RATE, seconds=0.02), kind="FLAC", subtype="PCM_16")
    ended = 0
    for index in range(300):
        data = bytearray(sound if index % 2 else flac)
        for place in random.integers(4, 60, 4):
            data[place] = random.integers(256)
        try:
            open_sound(bytes(data), "s.wav", RATE)
        except DatasetError:
            ended += 1
    assert 20 < ended < 300
