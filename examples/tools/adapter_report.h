#pragma once

#include <optional>
#include <string>
#include <vector>

#include <diffusers/io/safetensors.h>

/// The report of inspect_checkpoint on a LoRA file or a learned embedding.
struct AdapterReport {
  std::string title = {};                ///< kind and layout
  std::vector<std::string> lines = {};   ///< one for each component or embedding
  std::vector<std::string> errors = {};  ///< kinds of adapters that the library does not load
};

/// Recognises an adapter by the names of its tensors: LoRA in the layouts of diffusers, PEFT, kohya-ss and
/// cloneofsimo, other kinds of LyCORIS, and textual inversion of diffusers and AUTOMATIC1111.
/// @return nullopt for other files
std::optional<AdapterReport> describe_adapter(const diffusers::SafetensorsFile& file);

/// Returns the name of the adapter file in a folder that is no model folder; empty without one.
std::string adapter_file_in(const std::string& folder);
