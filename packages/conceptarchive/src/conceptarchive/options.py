"""Options of the command, as typed groups, and the objects that they name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from conceptarchive.building.engine import ArrayEngine, Engine, LocalEngine
from conceptarchive.building.ray_engine import RayEngine
from conceptarchive.concepts.overlap import load_class_names
from conceptarchive.concepts.vocabulary import Vocabulary
from conceptarchive.embedding.encoder import HF_HUB, LOCAL_DIR, OpenClipEncoder, Precision
from conceptarchive.embedding.processes import device_of
from conceptarchive.errors import FormatError, UsageError
from conceptarchive.features.embeddings import Embeddings
from conceptarchive.inputs.paths import expand_paths


@dataclass(frozen=True, kw_only=True)  # jsonargparse reads defaults with vars(): no slots
class EncoderConfig:
    """Which open_clip model, and how it runs."""

    model: str = "ViT-B-16"
    """Architecture, or local-dir:FOLDER."""

    pretrained: str | None = None
    """Tag of weights to fetch, as `openai`; `random` to try the command without any."""

    checkpoint: Path | None = None
    """File of weights, instead of a tag."""

    device: str = "cpu"
    """Where it runs, as `cuda`; under torchrun, each process takes its own GPU."""

    precision: Precision = "float32"
    """Type that it computes in."""

    batch_size: int = 256
    """Images or texts at a time."""

    workers: int = 4
    """Threads that decode and resize images."""

    def load(self, local_rank: int = 0) -> OpenClipEncoder:
        """The encoder, on the GPU of this process where there are several.

        Raises:
            UsageError: no weights are named, or two; or of `OpenClipEncoder`, as its other errors.
        """
        own = self.model.startswith((LOCAL_DIR, HF_HUB))
        sources = sum([own, self.pretrained is not None, self.checkpoint is not None])
        if sources != 1:
            raise UsageError(
                f"{self.model} takes its weights from one of --encoder.pretrained openai (to fetch "
                "them; random to try the command without any), --encoder.checkpoint FILE and "
                f"--encoder.model local-dir:FOLDER, got {sources or 'none'} of them"
            )
        try:
            return OpenClipEncoder(
                self.model,
                pretrained=self.pretrained,
                checkpoint=self.checkpoint,
                device=device_of(self.device, local_rank),
                precision=self.precision,
                batch_size=self.batch_size,
                workers=self.workers,
            )
        except ValueError as error:
            raise UsageError(f"--encoder: {error}") from error


@dataclass(frozen=True, kw_only=True)  # jsonargparse reads defaults with vars(): no slots
class VocabularyConfig:
    """The concepts to look for: a file, or the nouns of the pool's captions."""

    file: Path | None = None
    """Text with one name a line, or JSON {"concept": [...]}; mined from captions by default."""

    min_count: int = 10
    """Captions that must name a mined noun."""

    max_share: float | None = None
    """Leave out a mined noun that more than this share of captions names."""

    max_size: int | None = None
    """At most this many mined nouns."""

    phrases: bool = False
    """Also mine two nouns in a row."""

    min_association: float | None = None
    """Least pointwise mutual information of the two nouns of a mined phrase."""

    leave_out: str = ""
    """Files of class names that are not to be in it, as those of the benchmarks; quoted globs and
    braces are expanded."""

    merge_plurals: bool = True
    """Count a plural as its singular."""

    def load(self, captions: Sequence[str]) -> Vocabulary:
        """The vocabulary of the file, or of captions."""
        try:
            found = self._read() if self.file is not None else self._mine(captions)
            left_out = [
                name for path in expand_paths(self.leave_out) for name in load_class_names(path)
            ]
            return found.without(left_out) if left_out else found
        except ValueError as error:
            raise UsageError(f"--vocabulary: {error}") from error

    def _read(self) -> Vocabulary:
        assert self.file is not None
        return Vocabulary.from_file(self.file, merge_plurals=self.merge_plurals)

    def _mine(self, captions: Sequence[str]) -> Vocabulary:
        return Vocabulary.mine(
            captions,
            min_count=self.min_count,
            max_share=self.max_share,
            max_size=self.max_size,
            phrases=self.phrases,
            min_association=self.min_association,
            merge_plurals=self.merge_plurals,
        )


@dataclass(frozen=True, kw_only=True)  # jsonargparse reads defaults with vars(): no slots
class EngineConfig:
    """Who does the work: this process, one process of a job array, or a Ray cluster."""

    kind: Literal["local", "ray"] = "local"
    """`ray` runs on a cluster; needs conceptarchive[ray]."""

    shard_index: int = 0
    """Which process of a job array this is, from 0."""

    shard_count: int = 1
    """Processes of the job array; each is started with the same options and its own index."""

    wait_s: float = 86_400.0
    """Seconds to wait for the other processes of a job array, at each stage."""

    address: str | None = None
    """Of the Ray cluster (`auto`: the one of this machine); by default one is started here."""

    workers: int | None = None
    """Ray actors; by default as many as the cluster has room for."""

    cpus: float = 1.0
    """CPU cores of a Ray actor."""

    gpus: float = 0.0
    """GPUs of a Ray actor."""

    def load(self) -> Engine:
        """The engine."""
        if self.kind == "ray":
            return self.load_ray()
        if self.shard_count > 1 or self.shard_index:
            return ArrayEngine(self.shard_index, self.shard_count, wait_s=self.wait_s)
        return LocalEngine()

    def load_ray(self) -> RayEngine:
        """The engine, where it is Ray."""
        if self.shard_count > 1:
            raise UsageError("--engine.kind ray and --engine.shard_count exclude each other")
        return RayEngine(address=self.address, workers=self.workers, cpus=self.cpus, gpus=self.gpus)


@dataclass(frozen=True, kw_only=True)  # jsonargparse reads defaults with vars(): no slots
class RowsConfig:
    """How embeddings are read."""

    dataset: str | None = None
    """First part of ids that name no data set."""

    array: str = "l14"
    """Features of a DataComp pool, `b32` or `l14`."""

    normalize: bool = False
    """Divide rows by their length."""

    def open(self, pattern: str) -> Embeddings:
        """Embeddings of all folders that a path, glob or brace expression names."""
        return self._open(expand_paths(pattern), self.dataset)

    def open_pool(self, pattern: str) -> Embeddings:
        """The same for a pool: ids that name no data set get the name of its folder."""
        folders = expand_paths(pattern)
        return self._open(folders, folders[0].resolve().name if len(folders) == 1 else None)

    def _open(self, folders: Sequence[Path], dataset: str | None) -> Embeddings:
        return Embeddings.open(
            *folders,
            dataset=dataset,
            array=self.array,
            normalize=self.normalize,
        )


def concept_features(
    vocabulary: Vocabulary, config: EncoderConfig, file: Path | None, anchors: Embeddings
) -> tuple[npt.NDArray[np.float32], str]:
    """(V, D) unit rows of the concepts' prompts, and what made them."""
    if file is not None:
        try:
            rows = np.asarray(np.load(file), dtype=np.float32)
        except (OSError, ValueError, TypeError) as error:
            raise FormatError(f"{file}: not a .npy of rows ({error})") from error
        if rows.ndim != 2:
            raise FormatError(f"{file}: needs (concepts, width) rows, got {rows.shape}")
        lengths = np.linalg.norm(rows, axis=-1, keepdims=True)  # (V, 1)
        if not bool((np.isfinite(lengths) & (lengths > 0)).all()):
            raise FormatError(f"{file}: holds rows of zeros or of no numbers; embed it again")
        if len(rows) != len(vocabulary):
            raise FormatError(
                f"{file}: needs {len(vocabulary)} rows, a concept each, has {len(rows)}"
            )
        return rows / lengths, anchors.encoder_id or "unknown"
    encoder = config.load()
    if anchors.encoder_id not in (None, encoder.id):
        raise UsageError(f"--encoder is {encoder.id}, but {anchors.encoder_id} made the embeddings")
    return encoder.encode_texts(vocabulary.prompts()).numpy(), encoder.id
