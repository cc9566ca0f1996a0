"""Golden tensors of the schedulers for distilled and special models, made with Python diffusers 0.42.1.

    schedulers_special.py [--out DIR]      writes schedulers_special.safetensors

There are three configs of each class with complete loops of 10, 25 and 50 steps, as in schedulers.py. The file also holds
Brownian motion of torchsde, which is the noise of DPMSolverSDEScheduler (pip install torchsde).
"""
import sys

import numpy as np
import torch

import schedulers as base

try:
    import torchsde
except ImportError:
    sys.exit("schedulers_special.py needs torchsde: pip install torchsde")

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
COUNTS = (10, 25, 50)
CONFIGS = {
    "LCMScheduler": [{}, {"prediction_type": "v_prediction", "timestep_scaling": 5.0},
                     {"beta_schedule": "squaredcos_cap_v2", "thresholding": True, "sample_max_value": 1.5}],
    "TCDScheduler": [{}, {"prediction_type": "v_prediction"}, {"beta_schedule": "linear", "prediction_type": "sample"}],
    "SASolverScheduler": [{}, {**SD, "predictor_order": 3, "corrector_order": 3},
                          {"algorithm_type": "noise_prediction", "prediction_type": "v_prediction"}],
    "CMStochasticIterativeScheduler": [{"num_train_timesteps": 201}, {"num_train_timesteps": 64, "clip_denoised": False},
                                       {"num_train_timesteps": 151, "s_noise": 0.9, "sigma_max": 40.0, "rho": 6.0}],
    "UnCLIPScheduler": [{}, {"prediction_type": "sample"}, {"num_train_timesteps": 300, "clip_sample_range": 2.0}],
    "DPMSolverSDEScheduler": [
        {"noise_sampler_seed": 0},
        {**SD, "noise_sampler_seed": 3_000_000_000_000, "use_karras_sigmas": True, "prediction_type": "v_prediction"},
        {**SD, "noise_sampler_seed": 5, "timestep_spacing": "leading", "steps_offset": 1},
    ],
}


def add_loops():
    for name, configs in CONFIGS.items():
        for config in configs:
            for n in COUNTS:
                step = {"eta": 0.7} if name == "TCDScheduler" else {}
                base.loop(name, config, n=n, step=step, name=f"eta={step['eta']}" if step else "")
    sde = "DPMSolverSDEScheduler"
    base.loop(sde, {"noise_sampler_seed": 0, "use_exponential_sigmas": True})
    base.loop(sde, {"noise_sampler_seed": 0, "use_beta_sigmas": True})
    base.loop(sde, {"noise_sampler_seed": 1, "timestep_spacing": "trailing"}, step={"s_noise": 1.1}, name="s_noise")
    base.loop(sde, {"noise_sampler_seed": [4, 0]}, name="a seed for each sample")
    base.loop(sde, name="without a seed")
    base.loop(sde, {"noise_sampler_seed": 2}, n=1)
    base.loop(sde, {"noise_sampler_seed": 2}, set_timesteps={"num_train_timesteps": 600}, name="of 600")
    base.loop(sde, {"noise_sampler_seed": 2}, dtype="float64")


def brownian_motion(tensors):
    cases = []
    for seed, t0, t1, shape, dtype in ((0, 0.03, 14.6, (2, 3), "float32"), (12345678901, 0.0, 1.0, (4,), "float64"),
                                       (7, 0.0292, 157.4, (1, 2, 3), "float32"), (2**63 - 2, 0.002, 80.0, (2, 2), "float16")):
        tree = torchsde.BrownianInterval(t0=t0, t1=t1, size=shape, dtype=getattr(torch, dtype), entropy=seed, tol=1e-6,
                                         pool_size=24, halfway_tree=True)
        points = [t1, *sorted(np.random.default_rng(seed % 1000).uniform(t0, t1, 6).tolist(), reverse=True), t0]
        queries = [*zip(points[1:], points[:-1]), (t0, t1), (t0 - 1, points[3]), (points[4], points[4] + 1e-6)]
        tensors[f"brownian/{len(cases)}"] = torch.stack([tree(a, b) for a, b in queries])
        cases.append({"seed": seed, "t0": t0, "t1": t1, "shape": shape, "dtype": dtype, "queries": queries})
    return cases


def seed_sequences():
    cases = []
    for entropy, key, pool in ((0, [], 4), (1, [], 24), (2**40 + 17, [0, 0], 24), (5, [2**35 + 3, 30], 24), (9, [1, 2, 3], 4)):
        sequence = np.random.SeedSequence(entropy=entropy, spawn_key=tuple(key), pool_size=pool)
        cases.append({"entropy": entropy, "spawn_key": key, "pool_size": pool,
                      "state": [int(word) for word in sequence.generate_state(6)]})
    return cases


def main():
    out = base.begin(__doc__)
    tensors = {}
    add_loops()
    for case in base.LOOPS:
        torch.manual_seed(7)  # DPMSolverSDE draws its seed here if none is given
        base.run(case, tensors)
    metadata = {"cases": base.LOOPS, "brownian": brownian_motion(tensors), "seed_sequences": seed_sequences()}
    base.save(out / "schedulers_special.safetensors", tensors, metadata)
    print(f"{len(base.LOOPS)} loops")


if __name__ == "__main__":
    main()
