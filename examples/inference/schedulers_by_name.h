#pragma once

// Schedulers by the name in a flag.

#include <memory>
#include <string>

#include <diffusers/schedulers/scheduler.h>

/// Makes the scheduler of a name from the config of another one, as Python's
/// `NAME.from_config(pipeline.scheduler.config)`.
/// @param name a short name such as "ddim" or "euler_ancestral", or a class name such as "DDIMScheduler"
/// @throws diffusers::ConfigError listing the valid names
std::unique_ptr<diffusers::Scheduler> scheduler_by_name(const std::string& name,
                                                        const diffusers::Scheduler& trained);

/// Returns the short names, separated by commas.
std::string scheduler_names();
