"""The recipe: a single class defines the Prefect form, the TOML file and the options of the command line.

``planning`` derives omitted settings from the scan.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bluesky_multislice.choices import (
    Edges,
    FidelityName,
    FramesIn,
    Interpolation,
    Kernel,
    Kernels,
    OptimiserName,
    Propagation,
)
from bluesky_multislice.errors import RecipeError
from bluesky_multislice.measurement import Combination, MaskSense, Orientation, Regime, Saturated, energy_problem
from bluesky_multislice.recipe.frame_processing import FrameProcessing
from bluesky_multislice.recipe.refine import Refine
from bluesky_multislice.recipe.resources import Resources
from bluesky_multislice.recipe.technique_names import TechniqueName

Support = Literal["everywhere", "cylinder"]
Start = Literal["thin_sample", "empty"]
Device = Literal["auto", "cpu", "gpu", "cuda", "xpu"]


class ScanValues(BaseModel):
    """Values of the scan that override its metadata. Units are in the names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    technique: TechniqueName | None = Field(default=None, description="Measurement technique.")
    regime: Regime | None = Field(
        default=None, description="Whether frames are far-field diffraction patterns or near-field holograms."
    )
    energy_ev: float | None = Field(default=None, gt=10, lt=1e6, description="Photon energy, eV, 30 to 300 000.")
    distance_m: float | None = Field(
        default=None,
        description="Distance from the rotation axis to the detector, or to the plane that a lens images onto it, m.",
    )
    pixel_size_um: float | None = Field(default=None, gt=0, description="Detector pixel pitch, µm.")
    focus_distance_mm: float | None = Field(
        default=None,
        description="Distance from the focus to the rotation axis, mm; positive for a focus upstream. None: parallel "
        "beam.",
    )
    source_size_um: float | None = Field(
        default=None, ge=0, description="σ of the focal spot of a cone beam, which blurs holograms, µm. None: 0."
    )
    divergence_urad: float | None = Field(
        default=None, ge=0, description="σ of the divergence of a parallel beam, which blurs holograms, µrad. None: 0."
    )
    orientation: Orientation | None = Field(
        default=None, description="Rotation or flip of stored frames after which the pixel index grows with y and x."
    )
    detector_rotation_deg: float | None = Field(
        default=None,
        description="Rotation of the oriented detector in its plane, from x towards y, at most 10 degrees. None: from "
        "the scan, otherwise 0.",
    )
    axis_pixels: float | None = Field(
        default=None,
        description="Position of the rotation axis along x from the middle of the oriented detector, stored pixels, "
        "for frames of the whole sample. None: found.",
    )
    saturation: float | None = Field(default=None, gt=0, description="Smallest stored value of a saturated pixel.")
    angle_deg: float | None = Field(
        default=None, description="Rotation angle of a scan without a rotation stage, degrees."
    )
    frames_per_view: Combination | None = Field(
        default=None,
        description="Use of several consecutive frames per position or event: mean, sum, or stack (each is a view). "
        "None: exactly one frame each.",
    )
    allow_aborted: bool = Field(
        default=False,
        description="Use the frames that exist of a run that was aborted, failed or has no stop document.",
    )
    mask: str | None = Field(
        default=None,
        description="File with the detector's mask, which replaces the scan's: .npy, .tif, .png, .edf or "
        "FILE.h5::/dataset.",
    )
    mask_sense: MaskSense | None = Field(
        default=None,
        description="Whether 0 or 1 marks good pixels in the mask. None: 0, and the mask may exclude at most half of "
        "the pixels.",
    )
    values: dict[str, float] = Field(
        default_factory=dict,
        description="Values that only one technique has, such as numerical_aperture, by name, in SI units.",
    )

    @field_validator("values")
    @classmethod
    def _known_values(cls, values: dict[str, float]) -> dict[str, float]:
        if not values:
            return values
        from bluesky_multislice.models import technique_fields

        unknown = sorted(set(values) - set(technique_fields()))
        if unknown:
            raise ValueError(f"unknown values {', '.join(unknown)}; known are {', '.join(technique_fields())}")
        return values

    @field_validator("energy_ev", mode="before")
    @classmethod
    def _possible_energy(cls, value: Any) -> Any:
        doubt = energy_problem(value) if isinstance(value, (int, float)) and value > 0 else None
        if doubt is not None:
            raise ValueError(doubt)
        return value


class Recipe(BaseModel):
    """Settings of a reconstruction. Every field has a default; None means that it is derived from the scan."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, title="Multislice recipe")

    propagation: Propagation = Field(
        default="multislice",
        description="Forward model of the beam inside the sample; projection is the thin-sample model.",
    )
    accuracy: float = Field(
        default=0.06,
        ge=1e-4,
        le=0.5,
        description="Allowed relative error of the scattered wave due to slices, margins and halos, for a weakly "
        "scattering object. Smaller is slower.",
    )
    edges: Edges = Field(
        default="periodic",
        description="Boundary condition of the window: periodic, or outgoing (waves are absorbed at the edge).",
    )
    interpolation: Interpolation = Field(
        default="linear",
        description="Interpolation of the rotated volume: linear is fastest, fourier is exact if band-limited.",
    )
    oversampling: int = Field(
        default=1, ge=1, le=8, description="Model pixels per detector pixel and axis. Increase for fine fringes."
    )
    point_spread_pixels: float = Field(
        default=0.0, ge=0, le=64, description="σ of the detector's Gaussian point spread, detector pixels; 0: none."
    )
    way_to_detector: Kernel | None = Field(
        default=None,
        description="Propagator from the sample to a near-field detector. None: angular_spectrum, which is exact, "
        "for a parallel beam; fresnel for a cone beam, whose scaling theorem is paraxial.",
    )
    slices: int | None = Field(
        default=None, ge=1, le=4096, description="Number of slices along the beam. None: derived from accuracy."
    )
    depth_um: float | None = Field(
        default=None,
        gt=0,
        description="Thickness of the volume along the beam, µm. None: its lateral width for several angles, one depth "
        "of field for one angle.",
    )
    support: Support = Field(
        default="everywhere",
        description="Region where matter is allowed: everywhere, or only the cylinder that the frames of all angles "
        "cover.",
    )
    saturated: Saturated = Field(
        default="refuse", description="Treatment of saturated pixels: raise an error, or mask them in their frames."
    )
    illumination: Literal["divided", "joint"] | None = Field(
        default=None,
        description="Use of flats: divided (frames are divided by them), or joint (initial guess of an "
        "illumination fitted "
        "with the volume). None: divided if there are flats.",
    )
    start: Start | None = Field(
        default=None,
        description="Initial volume for holography of several angles: back-projected thin-sample retrieval, or empty. "
        "None: thin_sample for several angles.",
    )
    start_from: str | None = Field(
        default=None,
        min_length=1,
        description="Former result that gives initial volume, probe, positions and refined geometry: result file, or "
        "path of its node in the Tiled catalogue. None: initial guess from the frames.",
    )
    find_axis: bool | None = Field(
        default=None,
        description="Search for the rotation axis in holograms before the fit. With fewer than 40 angles, "
        "two methods must agree. "
        "None: for 40 or more angles spread evenly over 180°, and for half acquisitions.",
    )
    align: bool | None = Field(
        default=None,
        description="Search for shifts of the frames from angle to angle before the fit, and refine those that lower "
        "the misfit clearly. None: in holograms of 16 to 3000 angles.",
    )
    fidelity: FidelityName = Field(
        default="amplitude",
        description="Noise model: Gaussian on amplitudes, Poisson counts, or Gaussian on intensities.",
    )
    epochs: int | None = Field(
        default=None, ge=1, le=10_000, description="Maximum number of passes over all frames. None: planned."
    )
    polish: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="Conjugate-gradient steps over all frames after the epochs. Each takes the time of 1.5 epochs.",
    )
    coarse_levels: int = Field(
        default=0,
        ge=0,
        le=4,
        description="Number of preceding fits to frames binned by 2, 4, …; each gives the next fit's initial guess.",
    )
    first_propagation: Propagation | None = Field(
        default=None, description="Propagation of a preceding fit, such as projection. None: same as propagation."
    )
    optimiser: OptimiserName | None = Field(
        default=None,
        description="Optimiser of δ and β. weighted needs a single angle. None at one angle: weighted for "
        "ptychography, otherwise adam. None at several: nesterov, or adam for ptychography without planned l1.",
    )
    step: float = Field(default=1.0, gt=0, le=100, description="Factor on the planned step. Reduce if fits diverge.")
    momentum: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Momentum of the nesterov optimiser. None: 0.97 for holograms of one magnification, else 0.95.",
    )
    refine_probe: bool | None = Field(default=None, description="Refine the probe. None: only in ptychography.")
    probe_modes: int | None = Field(
        default=None,
        ge=1,
        le=16,
        description="Number of incoherent probe modes. None: as in a given probe, otherwise 1; at one angle, short "
        "fits select 3 if this reduces validation misfit by over 20 %.",
    )
    probe_variations: int = Field(
        default=0,
        ge=0,
        le=16,
        description="Number of shapes by which the probe's first mode varies from frame to frame (orthogonal probe "
        "relaxation). Use it for unstable beams. 0: none.",
    )
    absorption: bool = Field(default=True, description="Reconstruct β as well as δ. Otherwise β = 0.")
    positivity: bool | None = Field(
        default=None, description="Constrain δ and β to values ≥ 0. None: only for several angles."
    )
    total_variation: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="Weight of total variation, relative to the misfit. None: small for several angles, 0 for one.",
    )
    smoothing_by_held_back: bool = Field(
        default=False,
        description="Choose ⅓, 1 or 3 times the weight of total variation by the validation misfit of short fits. "
        "Adds the time of one fit.",
    )
    total_variation_z: float = Field(
        default=1.0, ge=0, le=100, description="Factor on differences along the beam in total variation."
    )
    total_variation_first: float = Field(
        default=1.0,
        ge=1,
        le=100,
        description="Factor on the weight of total variation in the first epoch; it decreases to 1. Try 3 for "
        "sharp samples measured at few angles.",
    )
    total_variation_floor: float = Field(
        default=1.0,
        gt=0,
        le=10,
        description="Difference of neighbouring voxels below which total variation smooths edges. "
        "Unit: 0.05 rad of phase "
        "through the volume (0.02 rad at one angle), times step.",
    )
    l1: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="Weight of the mean magnitude of δ and β; favours vacuum. None: from the noise, for ptychography "
        "at several angles with positivity, otherwise 0.",
    )
    smoothness_z: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Weight of squared differences between neighbouring planes along the beam.",
    )
    priors: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="Further priors by name, each with its weight and parameters, such as those of other installed "
        "packages.",
    )
    beta_over_delta_min: float | None = Field(
        default=None, ge=0, le=1000, description="Lower bound on β/δ of a voxel. None: no bound."
    )
    beta_over_delta_max: float | None = Field(
        default=None, ge=0, le=1000, description="Upper bound on β/δ of a voxel. None: no bound."
    )
    shell_correlation: bool = Field(
        default=False,
        description="Also fit two halves of the views and report the resolution from their correlation. Doubles the "
        "time.",
    )
    held_back_every: int = Field(
        default=20, ge=0, description="Use every n-th frame for validation instead of the fit; 0: none."
    )
    frames_in: FramesIn | None = Field(
        default=None,
        description="Storage of a rank's frames: in memory, or read from disk per batch. None: on disk if all frames "
        "exceed an eighth of the memory.",
    )
    frames_memory_gib: float | None = Field(
        default=None,
        gt=0,
        description="Host memory for a rank's frames, GiB; further frames stay on disk. None: an eighth of the "
        "machine's memory for all ranks.",
    )
    batch_views: int | None = Field(
        default=None, ge=1, description="Views that a rank computes at once. Reduce to save memory. None: planned."
    )
    batches_per_step: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Number of batches whose gradients are summed in a step. The result does not depend on "
        "the number of ranks. None: "
        "planned, at least two.",
    )
    checkpoint_every: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Smallest number of epochs between checkpoints, from which a stopped job resumes. None: every "
        "five minutes, using at most 2 % of the time.",
    )
    ranks: int | None = Field(
        default=None, ge=1, le=4096, description="Number of processes of the job. None: one per GPU or core."
    )
    mesh: str | None = Field(
        default=None,
        pattern=r"^[1-9]\d{0,3}x[1-9]\d{0,3}$",
        description="Ranks as angle x slab, such as 2x2: groups that share the views, times slabs of the volume along "
        "y. None: as few slabs as fit into memory.",
    )
    device: Device = Field(
        default="auto",
        description="Device of the job: auto uses GPUs if there are any; cpu; gpu for any GPU, cuda for NVIDIA or "
        "AMD, xpu for Intel.",
    )
    kernels: Kernels = Field(
        default="auto",
        description="Kernels on a GPU: auto uses the faster fused kernels if they agree with PyTorch's. Use general "
        "to rule out a kernel fault.",
    )
    seed: int = Field(default=0, ge=0, description="Random seed of the order of views.")
    resources: Resources = Field(
        default_factory=Resources, description="Resources of the job, within the limits of the site's profile."
    )
    refine: Refine = Field(default_factory=Refine, description="Quantities refined together with object and probe.")
    frames: FrameProcessing = Field(
        default_factory=FrameProcessing, description="Part of the frames to read, binning, and corrections of pixels."
    )
    scan: ScanValues = Field(default_factory=ScanValues, description="Values that override the scan's metadata.")

    @field_validator("priors")
    @classmethod
    def _known_priors(cls, priors: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        if priors:
            # Imported here because priors import PyTorch, which most commands do not need.
            from bluesky_multislice.solvers import make_prior

            for name, parameters in priors.items():
                if name in cls.model_fields:
                    raise ValueError(f"{name} is an option of its own; set {name} instead of priors.{name}")
                try:
                    make_prior(name, parameters)
                except RecipeError as error:
                    raise ValueError(str(error)) from error
        return priors

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "Recipe":
        least, most = self.beta_over_delta_min, self.beta_over_delta_max
        if least is not None and most is not None and least > most:
            raise ValueError("beta_over_delta_min must not exceed beta_over_delta_max")
        return self

    @model_validator(mode="after")
    def _one_initial_volume(self) -> "Recipe":
        if self.start is not None and self.start_from is not None:
            raise ValueError("start_from gives the initial volume; leave start out")
        return self

    @model_validator(mode="after")
    def _scheduled_are_refined(self) -> "Recipe":
        given = self.refine.schedules.given
        if "probe_variations" in given and not self.probe_variations:
            raise ValueError("a schedule for probe_variations needs probe_variations of at least 1")
        if "probe" in given and self.refine_probe is False:
            raise ValueError("a schedule for the probe needs a refined probe")
        return self

    def digest(self) -> str:
        """Return a short hash of the settings that are not defaults: equal recipes have equal digests.

        Options that a later release adds do not change the digest, so that the listener starts no finished scan again.
        """
        text = json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]


def make_recipe(values: Mapping[str, Any], *, origin: str) -> Recipe:
    """Validate settings and return them as a recipe.

    Args:
        values: settings by field name.
        origin: source of the values, for the error message.

    Raises:
        RecipeError: a field is unknown or a value is out of range.
    """
    try:
        return Recipe.model_validate(dict(values))
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']} (got {fault['input']!r})"
            for fault in error.errors()
        )
        raise RecipeError(
            "A recipe may contain only known fields with values in range.",
            got=f"{faults}, in {origin}.",
            remedy=f"correct it; the fields are {', '.join(Recipe.model_fields)}.",
        ) from error


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the settings of a TOML file, not yet validated, so that command-line options can override them.

    Raises:
        RecipeError: the file is missing or not valid TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RecipeError(
            "A recipe file must be readable TOML.", got=f"{path}: {error}.", remedy="correct the file or its path."
        ) from error
