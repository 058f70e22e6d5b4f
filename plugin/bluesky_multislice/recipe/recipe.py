"""What a person may choose. One class makes the Prefect form, the TOML file and the command line's options.

Everything left out is derived from the scan by ``planning``.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bluesky_multislice.errors import RecipeError
from bluesky_multislice.measurement import Orientation, Regime, Saturated, energy_problem
from bluesky_multislice.recipe.refine import Refine
from bluesky_multislice.recipe.resources import Resources

Support = Literal["everywhere", "cylinder"]
Start = Literal["thin_sample", "empty"]
Device = Literal["auto", "cpu", "gpu", "cuda", "xpu"]
Kernels = Literal["auto", "general", "fused"]
Propagation = Literal["multislice", "tiled-multislice", "finite-difference", "finite-difference-wide", "projection"]


def _techniques() -> list[str]:
    # They bring PyTorch, for which whoever asks for the options, or names no technique, need not wait.
    from bluesky_multislice.models import techniques

    return list(techniques())


def _known_technique(name: str) -> str:
    if name not in _techniques():
        raise ValueError(f"the techniques are {', '.join(_techniques())}")
    return name


TechniqueName = Annotated[
    str,
    AfterValidator(_known_technique),
    # Asked for when a form is made: other packages may offer techniques.
    Field(json_schema_extra=lambda schema: schema.update(enum=[*_techniques()])),
]


class ScanValues(BaseModel):
    """Values of the scan that overrule what its metadata says (units in the names, as people type them)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    technique: TechniqueName | None = Field(default=None, description="Kind of measurement.")
    regime: Regime | None = Field(
        default=None, description="Whether frames are far-field diffraction patterns or near-field holograms."
    )
    energy_ev: float | None = Field(default=None, gt=10, lt=1e6, description="Photon energy, eV: 30 to 300 000.")
    distance_m: float | None = Field(
        default=None,
        description="Rotation axis to the detector, or to the plane that a lens images onto it, m.",
    )
    pixel_size_um: float | None = Field(default=None, gt=0, description="Detector pixel pitch, µm.")
    focus_distance_mm: float | None = Field(
        default=None,
        description="Focus to rotation axis, mm; positive when the focus lies upstream. None: parallel beam.",
    )
    source_size_um: float | None = Field(
        default=None, ge=0, description="σ of the spot in the focus of a cone beam that blurs holograms, µm. None: 0."
    )
    divergence_urad: float | None = Field(
        default=None, ge=0, description="σ of the directions of a parallel beam that blurs holograms, µrad. None: 0."
    )
    orientation: Orientation | None = Field(
        default=None, description="What turns stored frames into frames whose index grows with y and x."
    )
    saturation: float | None = Field(default=None, gt=0, description="Stored value from which a pixel is saturated.")
    angle_deg: float | None = Field(
        default=None, description="Rotation angle of a scan without a rotation stage, degrees."
    )
    values: dict[str, float] = Field(
        default_factory=dict,
        description="Numbers that only one technique has, such as numerical_aperture, by name, in SI units.",
    )

    @field_validator("values")
    @classmethod
    def _known_values(cls, values: dict[str, float]) -> dict[str, float]:
        if not values:
            return values
        from bluesky_multislice.models import technique_fields

        unknown = sorted(set(values) - set(technique_fields()))
        if unknown:
            raise ValueError(f"unknown {', '.join(unknown)}; known are {', '.join(technique_fields())}")
        return values

    @field_validator("energy_ev", mode="before")
    @classmethod
    def _possible_energy(cls, value: Any) -> Any:
        doubt = energy_problem(value) if isinstance(value, (int, float)) and value > 0 else None
        if doubt is not None:
            raise ValueError(doubt)
        return value


class Recipe(BaseModel):
    """How to reconstruct a scan. Every field has a default; None means: derived from the scan."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, title="Multislice recipe")

    propagation: Propagation = Field(
        default="multislice",
        description="Forward model of the beam inside the sample; projection is the thin-sample baseline.",
    )
    accuracy: float = Field(
        default=0.06,
        ge=1e-4,
        le=0.5,
        description="Relative error of the scattered wave that slices, margins and halos may bring for a weakly "
        "scattering object; smaller is slower.",
    )
    edges: Literal["periodic", "outgoing"] = Field(
        default="periodic", description="Whether light leaves at the window's edges or comes around to the other side."
    )
    interpolation: Literal["linear", "cubic", "fourier"] = Field(
        default="linear", description="How the volume is turned: fast, better for fine details, or exact for them."
    )
    oversampling: int = Field(
        default=1, ge=1, le=8, description="Pixels of the model on a side of each detector pixel, which sums them."
    )
    point_spread_pixels: float = Field(
        default=0.0, ge=0, le=64, description="σ of the detector's Gaussian point spread, detector pixels; 0: none."
    )
    way_to_detector: Literal["fresnel", "angular_spectrum"] = Field(
        default="fresnel",
        description="How light goes from the sample to a near-field detector: by Fresnel's kernel, or exactly, for a "
        "parallel beam; they differ where details come near the wavelength.",
    )
    slices: int | None = Field(
        default=None, ge=1, le=4096, description="Slices along the beam. None: from the accuracy."
    )
    depth_um: float | None = Field(
        default=None, gt=0, description="Thickness of the volume along the beam, µm. None: from the field of view."
    )
    support: Support = Field(
        default="everywhere",
        description="Where matter may be: everywhere, or only in the cylinder that the frames of every angle see.",
    )
    saturated: Saturated = Field(
        default="refuse", description="Whether saturated pixels are refused, or left out in their frames and counted."
    )
    illumination: Literal["divided", "joint"] | None = Field(
        default=None,
        description="Whether flats are divided out, or tell the first illumination, which the fit then refines with "
        "the volume: for a beam whose structure the sample refracts. None: divided where there are flats.",
    )
    start: Start | None = Field(
        default=None,
        description="Volume that holography of several angles starts from: a thin-sample retrieval, back-projected, or "
        "none. None: thin_sample where there are several angles.",
    )
    find_axis: bool | None = Field(
        default=None,
        description="Look for the rotation axis in holograms before the fit; of fewer than 40 angles it is believed "
        "where two methods agree. None: where 40 angles or more cover half a turn evenly.",
    )
    fidelity: Literal["amplitude", "poisson", "intensity"] = Field(
        default="amplitude",
        description="Noise that the fit expects: Gaussian on amplitudes, Poisson counts, or Gaussian on intensities.",
    )
    epochs: int | None = Field(default=None, ge=1, le=10_000, description="Most passes over all frames. None: planned.")
    polish: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="Steps of conjugate gradients over all frames after the epochs; each takes 1.5 epochs' time.",
    )
    coarse_levels: int = Field(
        default=0,
        ge=0,
        le=4,
        description="Fits to frames 2, 4, … times coarser that come first, each the next's start.",
    )
    first_propagation: Propagation | None = Field(
        default=None, description="Propagation of the fits that come first, such as projection. None: the same."
    )
    optimiser: Literal["adam", "nesterov", "weighted"] | None = Field(
        default=None,
        description="What moves δ and β: Adam; accelerated descent, its step from the data and voxels weighted by the "
        "light that they get; or, at one angle, descent weighted batch by batch, which moves the probe too. None: "
        "weighted for ptychography at one angle, accelerated at several angles where vacuum is favoured, else Adam.",
    )
    step: float = Field(default=1.0, gt=0, le=100, description="Factor on the planned step of the optimiser.")
    momentum: float = Field(
        default=0.95,
        ge=0,
        lt=1,
        description="Part of accelerated descent's last move that goes on. 0.97 brings long fits of holograms further.",
    )
    refine_probe: bool | None = Field(default=None, description="Refine the probe. None: yes in ptychography.")
    probe_modes: int | None = Field(
        default=None,
        ge=1,
        le=16,
        description="Mutually incoherent probe modes. None: those of a given probe, else one; at one angle three where "
        "short fits explain validation frames a fifth better.",
    )
    probe_variations: int = Field(
        default=0,
        ge=0,
        le=16,
        description="Shapes by which the probe's first mode may change from frame to frame, each with a weight of its "
        "own a frame (orthogonal probe relaxation); for beams that wander or flicker. 0: none.",
    )
    absorption: bool = Field(default=True, description="Reconstruct β as well as δ; otherwise β = 0.")
    positivity: bool | None = Field(
        default=None, description="Keep δ and β from going negative. None: yes for several angles."
    )
    total_variation: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="Weight of total variation, relative to the fit. None: small at several angles, 0 at one.",
    )
    smoothing_by_held_back: bool = Field(
        default=False,
        description="Choose the weight of total variation by frames held back: short fits with a third, once and three "
        "times of it come first, in about the time of one fit more.",
    )
    total_variation_z: float = Field(
        default=1.0, ge=0, le=100, description="Factor on the differences along the beam inside total variation."
    )
    total_variation_first: float = Field(
        default=1.0,
        ge=1,
        le=100,
        description="Factor on the weight of total variation in the first epoch, which falls to 1 as steps shorten. "
        "Some 3 bring sharp samples that are seen from few angles nearer to the truth.",
    )
    total_variation_floor: float = Field(
        default=1.0,
        gt=0,
        le=10,
        description="Difference between neighbours from which on total variation counts in proportion, keeping edges; "
        "below, with its square. In 0.05 rad of phase through the volume at several angles, 0.02 rad at one, times the "
        "recipe's step.",
    )
    l1: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="Weight of the mean magnitude of δ and β, which favours vacuum. None: as the noise asks for it, at "
        "several angles of ptychography with positivity; else 0.",
    )
    smoothness_z: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Weight of squared differences between neighbouring planes along the beam.",
    )
    beta_over_delta_min: float | None = Field(
        default=None, ge=0, le=1000, description="Least β/δ of a voxel. None: free."
    )
    beta_over_delta_max: float | None = Field(
        default=None, ge=0, le=1000, description="Greatest β/δ of a voxel. None: free."
    )
    shell_correlation: bool = Field(
        default=False,
        description="Also fit two halves of the views and give the resolution at which they agree; twice the time.",
    )
    held_back_every: int = Field(default=20, ge=0, description="Hold back every n-th frame to judge the fit; 0: none.")
    frames_in: Literal["memory", "disk"] | None = Field(
        default=None,
        description="Where a rank keeps its frames: in memory, or on disk until their batch comes. None: on disk where "
        "all frames take more than an eighth of the memory.",
    )
    frames_memory_gib: float | None = Field(
        default=None,
        gt=0,
        description="Host memory that the frames of a rank may take, GiB: all of them, or a batch and the one that is "
        "read meanwhile; more are read from disk. None: an eighth of the machine's memory for all ranks.",
    )
    batch_views: int | None = Field(default=None, ge=1, description="Views a rank works on at once. None: planned.")
    batches_per_step: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Batches that a step of the fit adds up. The volume does not depend on how many ranks share them. "
        "None: two, or one for each group of ranks that shares the views.",
    )
    checkpoint_every: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Epochs between two checkpoints, from which a job that was stopped goes on; more where one is "
        "still being written. None: every five minutes, or as often as takes 2 % of the time.",
    )
    ranks: int | None = Field(default=None, ge=1, le=4096, description="Processes of the job. None: one a GPU or core.")
    mesh: str | None = Field(
        default=None,
        pattern=r"^[1-9]\d{0,3}x[1-9]\d{0,3}$",
        description="Ranks as angle x slab, such as 2x2: groups that share the views, times slabs along y that the "
        "volume is cut into. None: no more slabs than memory asks for.",
    )
    device: Device = Field(
        default="auto",
        description="Where the job computes: on GPUs where there are any (auto), on processors (cpu), or only on GPUs: "
        "any (gpu), NVIDIA's and AMD's (cuda), Intel's (xpu).",
    )
    kernels: Kernels = Field(
        default="auto",
        description="Kernels on a GPU: auto takes fused ones, which are faster, where a short comparison finds them to "
        "agree with PyTorch's general ones; fused insists. Change it to rule out a fault.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the order of views.")
    resources: Resources = Field(
        default_factory=Resources, description="What the job asks of the machine, where the site's profile lets it."
    )
    refine: Refine = Field(default_factory=Refine, description="What is refined beside volume and probe.")
    scan: ScanValues = Field(default_factory=ScanValues, description="Values that overrule the scan's metadata.")

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "Recipe":
        least, most = self.beta_over_delta_min, self.beta_over_delta_max
        if least is not None and most is not None and least > most:
            raise ValueError("beta_over_delta_min must not exceed beta_over_delta_max")
        return self

    @model_validator(mode="after")
    def _scheduled_are_refined(self) -> "Recipe":
        given = self.refine.schedules.given
        if "probe_variations" in given and not self.probe_variations:
            raise ValueError("a schedule for probe_variations needs a number of them")
        if "probe" in given and self.refine_probe is False:
            raise ValueError("a schedule for a probe that is not refined")
        return self

    def digest(self) -> str:
        """Return a short hash of the settings: equal recipes have equal digests."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]


def make_recipe(values: Mapping[str, Any], *, origin: str) -> Recipe:
    """Check settings and return them as a recipe.

    Args:
        values: settings by field name.
        origin: where they came from, for the error.

    Raises:
        RecipeError: a field is unknown or a value out of range.
    """
    try:
        return Recipe.model_validate(dict(values))
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']} (came: {fault['input']!r})"
            for fault in error.errors()
        )
        raise RecipeError(
            "A recipe has known fields with values in range only.",
            got=f"{faults}, in {origin}.",
            remedy=f"correct it; the fields are {', '.join(Recipe.model_fields)}.",
        ) from error


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the settings in a TOML file, unchecked, so that command-line options can overrule them.

    Raises:
        RecipeError: the file is missing or no TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RecipeError(
            "A recipe file must be readable TOML.", got=f"{path}: {error}.", remedy="correct the file or its path."
        ) from error
