#pragma once

// The schedulers that a flag names.

#include <memory>
#include <string>

#include <diffusers/schedulers/scheduler.h>

/// Makes the scheduler of a name from the config of another one, as Python's
/// `NAME.from_config(pipeline.scheduler.config)`.
/// @param name a short name such as "ddim" or "euler_ancestral", or a class name such as "DDIMScheduler"
/// @throws diffusers::ConfigError listing the names that exist
std::unique_ptr<diffusers::Scheduler> scheduler_by_name(const std::string& name,
                                                        const diffusers::Scheduler& trained);

/// The short names, with commas between them.
std::string scheduler_names();
