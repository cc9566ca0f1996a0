"""Golden values of the schedulers that the library matches bit for bit, made with Python diffusers 0.42.1.

    schedulers_exact.py [--out DIR]      writes schedulers_exact.safetensors

The values are the timesteps of every class for every sigma schedule, timestep spacing and several numbers of steps, as
CRC-32 sums of their bytes. They also include loops at large noise levels, where x_0 is the difference of nearly equal
numbers divided by a small number. The loops are those of schedulers.py.
"""
import inspect
import itertools
import zlib

import torch

import diffusers
import schedulers as base

COUNTS = (*range(1, 13), 20, 25, 50)
BETAS = [{"beta_schedule": "squaredcos_cap_v2"}, base.SD]
SPACINGS = ("linspace", "leading", "trailing")


def sigma_schedules(fields):
    """Returns the sigma schedules of a class, as configs. The first is the default."""
    schedules = [{}]
    for field in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"):
        if field in fields:
            schedules.append({field: True})
    if "use_flow_sigmas" in fields:
        schedules.append({"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0})
    if "sigma_schedule" in fields:
        schedules += [{"sigma_schedule": "exponential"}, {"rho": 5.0, "sigma_max": 20.0}]
    if "timestep_type" in fields:
        continuous = {"timestep_type": "continuous", "prediction_type": "v_prediction"}
        schedules += [continuous, {**continuous, "use_karras_sigmas": True}, {"interpolation_type": "log_linear"}]
    if "shift" in fields:
        schedules.append({"shift": 3.0})
    return schedules


def timesteps_of(scheduler, config, n):
    """Returns the timesteps, or None if Python has none or, with trailing spacing, one more."""
    try:
        scheduler.set_timesteps(n)
    except Exception:  # configs that Python refuses or fails with
        return None
    timesteps = scheduler.timesteps
    if config.get("timestep_spacing") == "trailing" and (timesteps < 0).any():
        return None
    return timesteps if timesteps.isfinite().all() else None


def timestep_sums():
    cases = []
    for name in (f"{name}Scheduler" for name in base.CLASSES):
        cls = getattr(diffusers, name)
        fields = inspect.signature(cls.__init__).parameters
        spacings = [{"timestep_spacing": spacing} for spacing in SPACINGS] if "timestep_spacing" in fields else [{}]
        betas = BETAS if "beta_schedule" in fields else []
        for spread, other in itertools.product(sigma_schedules(fields), [*spacings, *betas]):
            config = {**other, **spread}
            try:
                scheduler = cls(**config)
            except Exception:  # UnCLIP has fixed betas
                continue
            sums, dtype = [], None
            for n in COUNTS:
                timesteps = timesteps_of(scheduler, config, n)
                if timesteps is not None:
                    dtype = str(timesteps.dtype).removeprefix("torch.")
                    # SciPy's quantiles have errors of several units in the last place of a float64.
                    compared = timesteps.float() if "use_beta_sigmas" in config else timesteps
                    compared = timesteps if dtype != "float64" else compared
                    sums.append(zlib.crc32(compared.numpy().tobytes()))
                else:
                    sums.append(None)
            cases.append({"class": name, "config": config, "dtype": dtype, "sums": sums})
    return cases


def add_loops():
    """Records a few steps from the largest noise levels of a class."""
    for name in (f"{name}Scheduler" for name in base.CLASSES):
        if name in ("ScoreSdeVeScheduler", "RePaintScheduler"):  # steps with other arguments
            continue
        fields = inspect.signature(getattr(diffusers, name).__init__).parameters
        seed = {"noise_sampler_seed": 0} if "noise_sampler_seed" in fields else {}
        spacings = SPACINGS if "timestep_spacing" in fields else (None,)
        if name == "DDIMInverseScheduler":
            spacings = ("leading", "trailing")
        types = ("epsilon", "v_prediction") if "prediction_type" in fields else (None,)
        if name == "UnCLIPScheduler":
            types = ("epsilon", "sample")
        for spacing, prediction in itertools.product(spacings, types):
            config = dict(seed)
            if spacing:
                config["timestep_spacing"] = spacing
            if prediction:
                config["prediction_type"] = prediction
            if spacing == "leading" and "steps_offset" in fields:
                config["steps_offset"] = 1
            if "beta_schedule" in fields and name != "UnCLIPScheduler":
                config |= base.SD if spacing == "leading" else {"beta_schedule": "linear"}
            if "clip_sample" in fields:
                config["clip_sample"] = False
            base.loop(name, config, n=5)


def velocities(tensors):
    """Records velocities at three timesteps, before and after set_timesteps. Euler takes its own float timesteps."""
    cases = []
    for name in ("DDPMScheduler", "DDIMScheduler", "LCMScheduler", "TCDScheduler", "EulerDiscreteScheduler"):
        for n, dtype in ((None, "float32"), (10, "float32"), (10, "float16")):
            scheduler = getattr(diffusers, name)(prediction_type="v_prediction")
            if n:
                scheduler.set_timesteps(n)
            places = [0, 4, 9] if n else [0, 500, 999]
            x, noise = (base.randn(seed, (3, 2, 2, 2), base.DTYPES[dtype]) for seed in (1, 2))
            case = {"class": name, "n": n, "dtype": dtype, "places": places}
            tensors[f"velocity/{len(cases)}"] = scheduler.get_velocity(x, noise, scheduler.timesteps[places])
            cases.append(case)
    return cases


def main():
    out = base.begin(__doc__)
    # Results of the functions that the schedulers use on the CPU of this run, as one list of numbers.
    numbers = torch.arange(1, 258) / 257
    tensors = {f"probe/{f.__name__}": torch.stack([f(x) for x in numbers])
               for f in (torch.sqrt, torch.log, torch.exp, torch.expm1)}
    add_loops()
    for case in base.LOOPS:
        torch.manual_seed(7)
        base.run(case, tensors)
    sums = timestep_sums()
    metadata = {"cases": base.LOOPS, "counts": COUNTS, "timesteps": sums, "velocities": velocities(tensors)}
    base.save(out / "schedulers_exact.safetensors", tensors, metadata)
    print(f"{len(base.LOOPS)} loops, {len(sums)} configs of timesteps")


if __name__ == "__main__":
    main()
