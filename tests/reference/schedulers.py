"""Golden tensors of the schedulers, made with Python diffusers 0.42.1.

    schedulers.py [--out DIR]      writes schedulers.safetensors and schedulers_loops.safetensors

A loop starts at x = init_noise_sigma * randn(seed 0). The model of step i is 0.6 * randn(seed 100 + i) + 0.3 * scaled x,
which the C++ test computes in the same way. The noise of the scheduler is drawn from a CPU generator with seed 7.
"""
import argparse
import inspect
import json
import pathlib
import tempfile
import warnings

import torch
from safetensors.torch import save_file

import diffusers

SHAPE = (2, 3, 2, 2)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}

LOOPS = []


def loop(class_name, config=None, n=10, name="", set_timesteps=None, step=None, dtype="float32", width=1, begin=None,
         start=0, add=None):
    """Adds a case. `config` holds the constructor's arguments that are not defaults."""
    config = config or {}
    case = {
        "class": class_name, "config": config, "n": n, "set_timesteps": set_timesteps or {}, "step": step or {},
        "dtype": dtype, "width": width, "begin_index": begin, "start": start,
    }
    label = ",".join(f"{k}={v if not isinstance(v, list) else '[...]'}" for k, v in config.items())
    case["name"] = f"{class_name}#{len(LOOPS)}({label}) n={n} {name}".strip()
    LOOPS.append(case)


def ddpm_cases():
    c = "DDPMScheduler"
    loop(c)
    loop(c, n=None, name="without set_timesteps")
    for v in ("fixed_small_log", "fixed_large"):
        loop(c, {"variance_type": v}, n=25)
    for v in ("learned", "learned_range"):
        loop(c, {"variance_type": v}, width=2)
    for p in ("sample", "v_prediction"):
        loop(c, {"prediction_type": p})
        loop(c, {"prediction_type": p, "clip_sample": False, "timestep_spacing": "trailing"}, n=25)
    for s in ("scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"):
        loop(c, {"beta_schedule": s})
    loop(c, {"clip_sample": False}, n=50)
    loop(c, {"clip_sample_range": 2.5})
    loop(c, {"thresholding": True})
    loop(c, {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1.5})
    loop(c, {"timestep_spacing": "linspace"}, n=7)
    loop(c, {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"})
    loop(c, {"steps_offset": 1, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
             "clip_sample": False}, n=20)
    loop(c, {"trained_betas": [0.01 * (i + 1) for i in range(20)], "num_train_timesteps": 20})
    loop(c, {"beta_start": 0.02, "beta_end": 0.0001})
    loop(c, n=None, set_timesteps={"timesteps": [990, 800, 512, 100, 17, 3]})
    loop(c, {"prediction_type": "v_prediction"}, dtype="float16")
    loop(c, {"variance_type": "learned_range"}, dtype="bfloat16", width=2)
    loop(c, {"beta_schedule": "squaredcos_cap_v2"}, dtype="float64")


def ddim_cases():
    c = "DDIMScheduler"
    loop(c)
    loop(c, n=50)
    for eta in (0.5, 1.0):
        loop(c, step={"eta": eta}, n=25, name=f"eta={eta}")
    loop(c, step={"eta": 0.3, "use_clipped_model_output": True}, name="clipped")
    loop(c, {"prediction_type": "v_prediction"}, step={"use_clipped_model_output": True}, name="clipped")
    for p in ("sample", "v_prediction"):
        loop(c, {"prediction_type": p})
        loop(c, {"prediction_type": p, "clip_sample": False}, n=25, step={"eta": 0.7}, name="eta=0.7")
    for s in ("scaled_linear", "squaredcos_cap_v2"):
        loop(c, {"beta_schedule": s})
    for s in ("linspace", "trailing"):
        loop(c, {"timestep_spacing": s}, n=13)
    loop(c, {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "beta_schedule": "scaled_linear",
             "beta_start": 0.00085, "beta_end": 0.012}, n=50, name="stable diffusion")
    loop(c, {"clip_sample_range": 0.5})
    loop(c, {"thresholding": True, "sample_max_value": 2.0})
    loop(c, {"thresholding": True, "dynamic_thresholding_ratio": 0.5})
    loop(c, {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"})
    loop(c, {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, name="epsilon, clipped")
    loop(c, {"trained_betas": [0.02 * (i + 1) for i in range(20)], "num_train_timesteps": 20})
    loop(c, {"beta_start": 0.02, "beta_end": 0.0001})
    loop(c, {"num_train_timesteps": 100, "beta_end": 0.2}, n=33)
    for dtype in ("float16", "bfloat16", "float64"):
        loop(c, {"prediction_type": "v_prediction"}, dtype=dtype, step={"eta": 0.5})

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SPREADS = ({"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True})


def pndm_cases():
    c = "PNDMScheduler"
    loop(c)
    loop(c, {**SD, "skip_prk_steps": True, "steps_offset": 1}, n=50, name="stable diffusion")
    loop(c, {"prediction_type": "v_prediction", "set_alpha_to_one": True}, n=25)
    loop(c, {"timestep_spacing": "linspace", "beta_schedule": "squaredcos_cap_v2"})
    loop(c, {"timestep_spacing": "trailing", "skip_prk_steps": True}, n=13)
    loop(c, {"skip_prk_steps": True}, n=1)
    loop(c, {"prediction_type": "v_prediction"}, dtype="float16")


def euler_cases():
    c = "EulerDiscreteScheduler"
    loop(c)
    loop(c, {**SD, "timestep_spacing": "leading", "steps_offset": 1}, n=50, name="stable diffusion")
    loop(c, step={"s_churn": 8.0, "s_tmin": 0.1, "s_tmax": 50.0, "s_noise": 1.1}, n=25, name="churn")
    for spread in SPREADS:
        loop(c, spread)
    loop(c, {"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 10.0, "final_sigmas_type": "sigma_min"}, n=25)
    loop(c, {"interpolation_type": "log_linear"})
    loop(c, {"prediction_type": "v_prediction", "timestep_type": "continuous", "use_karras_sigmas": True})
    for p in ("sample", "v_prediction"):
        loop(c, {"prediction_type": p, "timestep_spacing": "trailing"}, n=25)
    loop(c, {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"})
    loop(c, n=None, set_timesteps={"timesteps": [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]}, name="timesteps")
    loop(c, n=None, set_timesteps={"sigmas": [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.38, 0.234, 0.113, 0.0]},
         name="sigmas")
    loop(c, n=20, begin=8, start=8, name="from the middle")
    loop(c, dtype="float16")
    loop(c, dtype="float64")


def euler_ancestral_cases():
    c = "EulerAncestralDiscreteScheduler"
    loop(c)
    loop(c, {**SD, "timestep_spacing": "leading", "steps_offset": 1}, n=50)
    loop(c, {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}, n=25)
    loop(c, {"beta_schedule": "squaredcos_cap_v2"}, dtype="bfloat16")


def lms_cases():
    c = "LMSDiscreteScheduler"
    loop(c)
    loop(c, {**SD, "timestep_spacing": "leading", "steps_offset": 1}, n=50)
    for spread in SPREADS:
        loop(c, spread)
    for p in ("sample", "v_prediction"):
        loop(c, {"prediction_type": p, "timestep_spacing": "trailing"}, n=25)
    for order in (1, 2, 3):
        loop(c, step={"order": order}, name=f"order={order}")


def heun_cases():
    c = "HeunDiscreteScheduler"
    loop(c)
    loop(c, {**SD, "timestep_spacing": "leading", "steps_offset": 1}, n=25)
    for spread in SPREADS:
        loop(c, spread)
    loop(c, {"prediction_type": "sample", "clip_sample": True, "clip_sample_range": 0.7})
    loop(c, {"prediction_type": "v_prediction", "timestep_spacing": "trailing"})
    loop(c, {"beta_schedule": "exp"}, n=50)
    loop(c, n=None, set_timesteps={"timesteps": [900, 600, 300, 10]}, name="timesteps")
    loop(c, set_timesteps={"num_train_timesteps": 600}, name="of 600")


def kdpm2_cases():
    for c in ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"):
        loop(c)
        loop(c, {**SD, "timestep_spacing": "leading", "steps_offset": 1}, n=25)
        for spread in SPREADS:
            loop(c, spread)
        loop(c, {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}, n=50)
        loop(c, {"timestep_spacing": "trailing"}, set_timesteps={"num_train_timesteps": 600}, name="of 600")


def dpmsolver_multistep_cases():
    c = "DPMSolverMultistepScheduler"
    loop(c)
    loop(c, SD, n=25)
    loop(c, SD, n=50)
    for order in (1, 2, 3):
        for solver in ("midpoint", "heun"):
            loop(c, {"solver_order": order, "solver_type": solver}, n=20)
            loop(c, {"solver_order": order, "solver_type": solver, "algorithm_type": "dpmsolver",
                     "final_sigmas_type": "sigma_min"})
            loop(c, {"solver_order": order, "solver_type": solver, "algorithm_type": "sde-dpmsolver++"})
            if order < 3:
                loop(c, {"solver_order": order, "solver_type": solver, "algorithm_type": "sde-dpmsolver",
                         "final_sigmas_type": "sigma_min"}, n=20)
    for spread in (*SPREADS, {"use_lu_lambdas": True}):
        loop(c, spread)
    loop(c, {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1})
    for p in ("sample", "v_prediction"):
        loop(c, {"prediction_type": p, "timestep_spacing": "trailing"})
        loop(c, {"prediction_type": p, "timestep_spacing": "leading", "steps_offset": 1, "algorithm_type": "dpmsolver",
                 "final_sigmas_type": "sigma_min"})
    loop(c, {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}, n=25)
    loop(c, {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "use_dynamic_shifting": True},
         set_timesteps={"mu": 0.9}, name="mu")
    loop(c, {"thresholding": True, "sample_max_value": 1.5}, name="thresholding")
    loop(c, {"thresholding": True, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"})
    loop(c, {"euler_at_final": True, "lower_order_final": False}, n=20)
    loop(c, {"variance_type": "learned_range"}, width=2)
    loop(c, {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"})
    loop(c, n=None, set_timesteps={"timesteps": [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]}, name="timesteps")
    loop(c, n=20, begin=8, start=8, name="from the middle")
    loop(c, dtype="float16")


def dpmsolver_multistep_inverse_cases():
    c = "DPMSolverMultistepInverseScheduler"
    loop(c)
    for order in (1, 3):
        loop(c, {"solver_order": order}, n=25)
    loop(c, {"algorithm_type": "dpmsolver", "solver_type": "heun"})
    loop(c, {"timestep_spacing": "leading", "steps_offset": 1, "prediction_type": "v_prediction"}, n=50)
    loop(c, {"timestep_spacing": "trailing", "prediction_type": "sample"})
    for spread in SPREADS:
        loop(c, spread)


def dpmsolver_singlestep_cases():
    c = "DPMSolverSinglestepScheduler"
    for order in (1, 2, 3):
        for solver in ("midpoint", "heun"):
            loop(c, {"solver_order": order, "solver_type": solver}, n=10 if solver == "heun" else 25)
            loop(c, {"solver_order": order, "solver_type": solver, "algorithm_type": "dpmsolver",
                     "final_sigmas_type": "sigma_min"}, n=12)
            loop(c, {"solver_order": order, "solver_type": solver, "algorithm_type": "sde-dpmsolver++"})
    loop(c, {"lower_order_final": True, "solver_order": 3}, n=50)
    for spread in SPREADS:
        loop(c, spread)
    loop(c, {"prediction_type": "v_prediction", "lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2"})
    loop(c, {"prediction_type": "sample", "thresholding": True})
    loop(c, {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 2.0})
    loop(c, {"variance_type": "learned"}, width=2)
    loop(c, n=None, set_timesteps={"timesteps": [999, 700, 400, 100]}, name="timesteps")


def deis_cases():
    c = "DEISMultistepScheduler"
    for order in (1, 2, 3):
        loop(c, {"solver_order": order})
        loop(c, {"solver_order": order, "timestep_spacing": "leading", "steps_offset": 1}, n=25)
    for spread in SPREADS:
        loop(c, spread)
    loop(c, {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}, n=50)
    loop(c, {"prediction_type": "sample", "thresholding": True})
    loop(c, {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 2.0})


def unipc_cases():
    c = "UniPCMultistepScheduler"
    for order in (1, 2, 3, 4):
        loop(c, {"solver_order": order})
        loop(c, {"solver_order": order, "solver_type": "bh1", "final_sigmas_type": "sigma_min"}, n=25)
        loop(c, {"solver_order": order, "predict_x0": False, "final_sigmas_type": "sigma_min"})
    loop(c, {"lower_order_final": False, "final_sigmas_type": "sigma_min", "disable_corrector": [0, 2]}, n=12)
    for spread in SPREADS:
        loop(c, spread)
    loop(c, {"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 10.0})
    loop(c, {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}, n=50)
    loop(c, {"prediction_type": "sample", "thresholding": True, "timestep_spacing": "leading", "steps_offset": 1})
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    loop(c, {**flow, "flow_shift": 3.0}, n=25)
    loop(c, {**flow, "use_dynamic_shifting": True, "shift_terminal": 0.02}, set_timesteps={"mu": 0.8}, name="mu")
    loop(c, {**flow, "use_karras_sigmas": True})
    loop(c, n=20, begin=8, start=8, name="from the middle")


def sasolver_cases():
    c = "SASolverScheduler"
    loop(c)
    for predictor, corrector in ((1, 1), (3, 3), (3, 4), (2, 1)):
        loop(c, {"predictor_order": predictor, "corrector_order": corrector}, n=25)
    loop(c, {"algorithm_type": "noise_prediction"}, n=25)
    for spread in SPREADS:
        loop(c, spread)
    loop(c, {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}, n=50)
    loop(c, {"prediction_type": "sample", "thresholding": True, "timestep_spacing": "leading", "steps_offset": 1})


def ddim_inverse_cases():
    c = "DDIMInverseScheduler"
    loop(c)
    loop(c, {**SD, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}, n=50)
    loop(c, {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}, n=25)
    loop(c, {"prediction_type": "sample", "set_alpha_to_one": False})


def distilled_cases():
    for c in ("LCMScheduler", "TCDScheduler"):
        loop(c, n=4)
        loop(c, n=10, set_timesteps={"strength": 0.6}, name="strength")
        loop(c, {"prediction_type": "v_prediction", "original_inference_steps": 100}, n=25)
        loop(c, {"prediction_type": "sample", "clip_sample": True}, n=50)
        loop(c, {"thresholding": True, "timestep_scaling": 5.0, "set_alpha_to_one": False}, n=8)
        loop(c, n=None, set_timesteps={"timesteps": [999, 759, 519, 259]}, name="timesteps")
        loop(c, n=5, set_timesteps={"original_inference_steps": 20}, name="original steps")
        loop(c, n=6, dtype="float16")
    loop("TCDScheduler", n=8, step={"eta": 0.0}, name="eta=0")
    loop("TCDScheduler", n=8, step={"eta": 1.0}, name="eta=1")


def flow_match_cases():
    c = "FlowMatchEulerDiscreteScheduler"
    loop(c)
    loop(c, {"shift": 3.0}, n=50)
    loop(c, {"use_dynamic_shifting": True}, set_timesteps={"mu": 0.9}, n=25, name="mu")
    loop(c, {"use_dynamic_shifting": True, "time_shift_type": "linear", "shift_terminal": 0.1}, set_timesteps={"mu": 1.4},
         name="mu")
    for spread in SPREADS:
        loop(c, spread)
    loop(c, {"invert_sigmas": True})
    loop(c, {"stochastic_sampling": True, "shift": 2.0})
    loop(c, n=None, set_timesteps={"sigmas": [1.0, 0.8, 0.5, 0.1]}, name="sigmas")
    loop(c, n=None, set_timesteps={"timesteps": [1000, 700, 100]}, name="timesteps")
    loop(c, n=20, begin=8, start=8, name="from the middle")
    loop(c, dtype="bfloat16")
    c = "FlowMatchHeunDiscreteScheduler"
    loop(c)
    loop(c, {"shift": 3.0}, n=25)
    loop(c, {"shift": 0.5, "num_train_timesteps": 500})
    loop(c, step={"s_churn": 4.0, "s_noise": 1.1}, n=50, name="churn")


def edm_cases():
    c = "EDMEulerScheduler"
    loop(c)
    loop(c, {"sigma_schedule": "exponential", "final_sigmas_type": "sigma_min"}, n=25)
    loop(c, {"prediction_type": "v_prediction", "sigma_data": 1.0, "rho": 5.0, "sigma_max": 20.0}, n=50)
    loop(c, step={"s_churn": 5.0, "s_noise": 1.01}, name="churn")
    c = "EDMDPMSolverMultistepScheduler"
    for order in (1, 2, 3):
        loop(c, {"solver_order": order})
    loop(c, {"solver_type": "heun", "sigma_schedule": "exponential"}, n=25)
    loop(c, {"final_sigmas_type": "sigma_min"}, n=25)
    loop(c, {"algorithm_type": "sde-dpmsolver++"}, n=50)
    loop(c, {"prediction_type": "v_prediction", "thresholding": True, "euler_at_final": True})


def other_cases():
    c = "IPNDMScheduler"
    for n in (10, 25, 50):
        loop(c, n=n)
    loop(c, {"trained_betas": [1.0, 0.9, 0.6, 0.2, 0.05], "num_train_timesteps": 4}, n=4)
    loop(c, {"num_train_timesteps": 300})
    c = "CMStochasticIterativeScheduler"
    loop(c)
    loop(c, {"clip_denoised": False, "s_noise": 1.1}, n=25)
    loop(c, {"num_train_timesteps": 100, "sigma_max": 20.0, "rho": 5.0, "sigma_data": 1.0}, n=50)
    loop(c, n=None, set_timesteps={"timesteps": [22, 0]}, name="timesteps")
    loop(c, n=1)
    c = "UnCLIPScheduler"
    loop(c)
    loop(c, {"variance_type": "learned_range", "clip_sample_range": 2.0}, n=25, width=2)
    loop(c, {"prediction_type": "sample", "clip_sample": False}, n=50)


def special_steps(tensors):
    """Records steps with additional arguments: UnCLIP, RePaint, the SDE and per-token flow matching."""
    unclip = diffusers.UnCLIPScheduler()
    unclip.set_timesteps(10)
    x, generator = randn(0, SHAPE), torch.Generator().manual_seed(7)
    for i, t in enumerate(unclip.timesteps):
        prev = unclip.timesteps[i + 1] if i + 1 < 10 else None
        x = unclip.step(0.6 * randn(100 + i, SHAPE) + 0.3 * x, t, x, prev_timestep=prev, generator=generator).prev_sample
        tensors[f"unclip/{i}"] = x
    for k, (eta, clip, n, jump) in enumerate(((0.0, True, 25, 5), (0.7, False, 10, 3), (1.0, True, 50, 10))):
        repaint = diffusers.RePaintScheduler(eta=eta, clip_sample=clip)
        repaint.set_timesteps(n, jump_length=jump, jump_n_sample=2)
        tensors[f"repaint/{k}/timesteps"] = repaint.timesteps
        x, generator = randn(0, SHAPE), torch.Generator().manual_seed(7)
        image, mask = randn(1, SHAPE), (randn(2, SHAPE) > 0).float()
        last = repaint.timesteps[0] + 1
        steps = []
        for i, t in enumerate(repaint.timesteps):
            if t < last:
                output = 0.6 * randn(100 + i, SHAPE) + 0.3 * x
                x = repaint.step(output, t, x, image, mask, generator).prev_sample
            else:
                x = repaint.undo_step(x, last, generator)
            last = t
            steps.append(x)
        tensors[f"repaint/{k}/prev"] = torch.stack(steps)
    tensors["repaint/default_timesteps"] = (lambda s: (s.set_timesteps(50), s.timesteps)[1])(diffusers.RePaintScheduler())
    for k, n in enumerate((10, 25, 50)):
        sde = diffusers.ScoreSdeVeScheduler(sigma_max=50.0 + k, snr=0.1 + 0.05 * k)
        sde.set_timesteps(n)
        sde.set_sigmas(n)
        x, generator = randn(0, SHAPE) * sde.init_noise_sigma, torch.Generator().manual_seed(7)
        steps = []
        for i, t in enumerate(sde.timesteps):
            output = 0.6 * randn(100 + i, SHAPE) - 0.3 * x
            x = sde.step_correct(output, x, generator=generator).prev_sample
            result = sde.step_pred(output, t, x, generator=generator)
            x = result.prev_sample
            steps.append(torch.stack([x, result.prev_sample_mean]))
        tensors[f"sde/{k}"] = torch.stack(steps)
        tensors[f"sde/{k}/sigmas"] = sde.sigmas
        tensors[f"sde/{k}/discrete_sigmas"] = sde.discrete_sigmas
    for k, stochastic in enumerate((False, True)):
        flow = diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=stochastic)
        flow.set_timesteps(4)
        x, per_token = randn(0, (2, 3, 5)), torch.tensor([[1000.0, 600.0, 250.0], [900.0, 10.0, 0.0]])
        tensors[f"per_token/{k}"] = flow.step(randn(1, (2, 3, 5)), flow.timesteps[0], x, per_token_timesteps=per_token,
                                              generator=torch.Generator().manual_seed(7)).prev_sample
    edm = diffusers.EDMEulerScheduler()
    edm.set_timesteps(4)
    x = randn(0, SHAPE) * 80
    for i, t in enumerate(edm.timesteps):
        x = edm.step(randn(1, SHAPE), t, x, pred_original_sample=0.5 * randn(2 + i, SHAPE)).prev_sample
    tensors["edm/with_x0"] = x
    sde = diffusers.ScoreSdeVeScheduler()
    sde.set_timesteps(7, sampling_eps=0.02)
    tensors["sde/timesteps"] = sde.timesteps
    for name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        scheduler = getattr(diffusers, name)()
        scheduler.set_timesteps(10)
        tensors[f"noised/{name}"] = scheduler.add_noise(randn(1, SHAPE), randn(2, SHAPE), scheduler.timesteps[[2, 7]])
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    tensors["noised/FlowMatchEulerDiscreteScheduler"] = flow.scale_noise(randn(1, SHAPE), flow.timesteps[[200, 700]],
                                                                        randn(2, SHAPE))



def randn(seed, shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def run(case, tensors):
    cls = getattr(diffusers, case["class"])
    scheduler = cls(**case["config"])
    if case["n"] is not None or case["set_timesteps"]:
        scheduler.set_timesteps(*([case["n"]] if case["n"] is not None else []), **case["set_timesteps"])
    if case["begin_index"] is not None:
        scheduler.set_begin_index(case["begin_index"])
    name, dtype = case["name"], DTYPES[case["dtype"]]
    sigma = float(getattr(scheduler, "init_noise_sigma", 1.0))
    case["init_noise_sigma"] = sigma
    case["json"] = json.loads(scheduler.to_json_string())
    x = randn(0, SHAPE, dtype) * sigma
    generator = torch.Generator().manual_seed(7)
    kwargs = dict(case["step"])
    if "generator" in inspect.signature(scheduler.step).parameters:
        kwargs["generator"] = generator
    prev, original = [], []
    timesteps = scheduler.timesteps
    count = len(timesteps) if case["n"] is not None or case["set_timesteps"] else 8
    for i, t in enumerate(timesteps[case["start"]:count]):
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        shape = (SHAPE[0], SHAPE[1] * case["width"], *SHAPE[2:])
        output = 0.6 * randn(100 + i, shape, dtype) + 0.3 * torch.cat([scaled.to(dtype)] * case["width"], 1)
        if case["width"] == 2 and case["config"].get("variance_type") == "learned":
            output[:, SHAPE[1]:] = output[:, SHAPE[1]:].abs() * 0.1
        result = scheduler.step(output, t, x, **kwargs)
        x = result.prev_sample
        prev.append(x)
        if getattr(result, "pred_original_sample", None) is not None:
            original.append(result.pred_original_sample)
        assert torch.isfinite(x).all(), f"{name}: step {i} is not finite"
    case["prev_dtype"] = str(prev[-1].dtype).removeprefix("torch.")
    tensors[f"{name}/prev"] = torch.stack(prev)
    if original:
        tensors[f"{name}/x0"] = torch.stack(original)
    if case["n"] is not None or case["set_timesteps"]:
        tensors[f"{name}/timesteps"] = timesteps.clone()
    if isinstance(getattr(scheduler, "sigmas", None), torch.Tensor) and scheduler.sigmas.dim() == 1:
        tensors[f"{name}/sigmas"] = scheduler.sigmas.clone()


def beta_tables(tensors):
    """Records the betas and alphas_cumprod of every schedule, and noising with one timestep for each sample."""
    cases = []
    for schedule in ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"):
        for extra in ({}, {"beta_start": 0.00085, "beta_end": 0.012}, {"num_train_timesteps": 37},
                      {"rescale_betas_zero_snr": True}, {"beta_start": 0.02, "beta_end": 0.0001}):
            config = {"beta_schedule": schedule, **extra}
            if "beta_start" in extra and schedule in ("squaredcos_cap_v2", "laplace"):
                continue
            scheduler = diffusers.DDPMScheduler(**config)
            key = f"betas/{len(cases)}"
            cases.append(config)
            tensors[key] = scheduler.betas
            tensors[f"{key}/alphas_cumprod"] = scheduler.alphas_cumprod
    timesteps = torch.tensor([0, 17, 501, 999])
    x, e = randn(1, (4, 3, 2, 2)), randn(2, (4, 3, 2, 2))
    for dtype_name, dtype in DTYPES.items():
        scheduler = diffusers.DDPMScheduler()
        tensors[f"add_noise/{dtype_name}"] = scheduler.add_noise(x.to(dtype), e.to(dtype), timesteps)
        tensors[f"get_velocity/{dtype_name}"] = scheduler.get_velocity(x.to(dtype), e.to(dtype), timesteps)
    tensors["add_noise/one_timestep"] = diffusers.DDIMScheduler().add_noise(x, e, torch.tensor([250]))
    return cases


def timestep_tables(tensors):
    cases = []
    for spacing in ("linspace", "leading", "trailing"):
        for total, n, offset in ((1000, 1, 0), (1000, 10, 0), (1000, 10, 1), (1000, 33, 3), (1000, 50, 1), (1000, 999, 0),
                                 (1000, 1000, 0), (37, 7, 0), (37, 37, 0), (1000, 61, 0), (1000, 103, 0), (999, 13, 2)):
            scheduler = diffusers.DDIMScheduler(num_train_timesteps=total, timestep_spacing=spacing, steps_offset=offset)
            scheduler.set_timesteps(n)
            # For some n, Python's trailing spacing has one additional element, the timestep -1. The library does not have it.
            tensors[f"timesteps/{len(cases)}"] = scheduler.timesteps[:n].clone()
            cases.append({"timestep_spacing": spacing, "num_train_timesteps": total, "n": n, "steps_offset": offset})
    return cases


def saved_configs():
    """Returns (class, config, saved text): the text that a class writes for a given config."""
    given = [
        ("DDPMScheduler", {}),
        ("DDIMScheduler", {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
                           "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "skip_prk_steps": True,
                           "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "num_train_timesteps": 1000}),
        ("DDPMScheduler", {"trained_betas": None, "_class_name": "DDPMScheduler", "sample_max_value": 1, "unheard_of": [1, 2.5],
                           "_private": {"a": None}, "beta_start": 1e-05}),
        ("DDIMScheduler", {"prediction_type": "v_prediction", "steps_offset": 3, "timestep_spacing": "trailing",
                           "_use_default_values": ["timestep_spacing"], "_class_name": "DDPMScheduler",
                           "variance_type": "fixed_large", "lambda_min_clipped": -float("inf")}),
        ("DDPMScheduler", {"trained_betas": [0.1, 0.25, 1e-07], "num_train_timesteps": 3}),
    ]
    result = []
    for class_name, config in given:
        scheduler = getattr(diffusers, class_name).from_config(dict(config))
        with tempfile.TemporaryDirectory() as folder:
            scheduler.save_pretrained(folder)
            text = (pathlib.Path(folder) / "scheduler_config.json").read_text()
        result.append({"class": class_name, "config": json.dumps(config), "saved": text})
    for source, target in (("DDPMScheduler", "DDIMScheduler"), ("DDIMScheduler", "DDPMScheduler")):
        config = getattr(diffusers, source)(prediction_type="v_prediction", clip_sample=False).config
        text = getattr(diffusers, target).from_config(config).to_json_string()
        result.append({"class": target, "converted_from": source, "saved": text})
    return result


CLASSES = ("DDPM", "DDIM", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete",
           "KDPM2AncestralDiscrete", "DPMSolverMultistep", "DPMSolverMultistepInverse", "DPMSolverSinglestep", "DPMSolverSDE",
           "DEISMultistep", "UniPCMultistep", "SASolver", "DDIMInverse", "LCM", "TCD", "IPNDM", "EDMEuler",
           "EDMDPMSolverMultistep", "FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "CMStochasticIterative", "ScoreSdeVe",
           "RePaint", "UnCLIP")
MEMBERS = ("add_noise", "get_velocity", "scale_noise", "set_begin_index", "betas", "alphas_cumprod", "final_alpha_cumprod",
           "sigmas")


def interfaces():
    """Returns the arguments of each class's constructor and methods. Those of `step` exclude the first three."""
    result = []
    for name in (f"{name}Scheduler" for name in CLASSES):
        cls = getattr(diffusers, name)
        scheduler = cls()
        with tempfile.TemporaryDirectory() as folder:
            scheduler.save_pretrained(folder)
            text = (pathlib.Path(folder) / "scheduler_config.json").read_text()
        arguments = {method: [name for name, parameter in inspect.signature(getattr(cls, method)).parameters.items()
                              if parameter.kind is not parameter.VAR_KEYWORD][1:]
                     for method in ("__init__", "set_timesteps", "step") if hasattr(cls, method)}
        result.append({
            "class": name, "saved": text, "fields": arguments["__init__"], "set_timesteps": arguments["set_timesteps"],
            "step": arguments.get("step", [])[3:], "order": getattr(scheduler, "order", 1),
            "init_noise_sigma": float(getattr(scheduler, "init_noise_sigma", 1.0)),
            "members": [m for m in MEMBERS if getattr(scheduler, m, None) is not None],
        })
    return result


def save(path, tensors, metadata):
    tensors = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
    save_file(tensors, path, metadata={k: json.dumps(v) for k, v in metadata.items()})
    path.chmod(0o644)


def begin(description):
    """Reads the command line of a script, prepares the run and returns the folder to write to."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", default=pathlib.Path(__file__).resolve().parent.parent / "golden")
    out = pathlib.Path(parser.parse_args().out)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    return out


def main():
    out = begin(__doc__)
    tensors = {}
    special_steps(tensors)
    metadata = {"betas": beta_tables(tensors), "timesteps": timestep_tables(tensors), "configs": saved_configs(),
                "classes": interfaces()}
    save(out / "schedulers.safetensors", tensors, metadata)

    for name, function in list(globals().items()):
        if name.endswith("_cases"):
            function()
    tensors = {}
    for case in LOOPS:
        run(case, tensors)
    save(out / "schedulers_loops.safetensors", tensors, {"cases": LOOPS})
    print(f"{len(LOOPS)} loops")


if __name__ == "__main__":
    main()
