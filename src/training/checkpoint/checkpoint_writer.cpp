#include "training/checkpoint/checkpoint_writer.h"

#include <chrono>
#include <exception>
#include <system_error>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/io/safetensors.h>

#include "core/parallel.h"
#include "io/staged_folder.h"
#include "io/system_calls.h"
#include "training/checkpoint/checkpoint.h"

namespace diffusers {
inline namespace internal {
void write_checkpoint(const CheckpointContent& content) {
  try {
    for (const std::string& path : content.logs)
      if (file_exists(path)) sync_file(path);  // the user may have removed it
    StagedFolder folder(checkpoint_path(content.output_dir, content.step));
    for (const auto& [name, write] : content.models) write(join_path(folder.stage(), name));
    for (const auto& [name, tensors] : content.tensors)
      save_safetensors(tensors, join_path(folder.stage(), name));
    for (const auto& [name, text] : content.texts) write_file(text, join_path(folder.stage(), name));
    folder.publish_with_manifest();
    if (content.total_limit) keep_newest_checkpoints(content.output_dir, *content.total_limit, content.step);
  } catch (...) {
    // Removes files that the scopes above could not remove, perhaps because of the error that failed the
    // save.
    remove_unfinished_folders(content.output_dir);
    throw;
  }
}

CheckpointWriter::~CheckpointWriter() {
  try {
    wait();
  } catch (const std::exception& error) {
    log_message(LogLevel::kError, error.what());
  }
}

void CheckpointWriter::start(CheckpointContent content) {
  wait();
  const auto job = [content = std::move(content)] { write_checkpoint(content); };
  try {
    in_flight_ = std::async(std::launch::async, [job] {
      use_one_intraop_thread();
      job();
    });
  } catch (const std::system_error&) {
    job();  // no thread could be started
  }
}

void CheckpointWriter::wait() {
  if (in_flight_.valid()) in_flight_.get();
}

void CheckpointWriter::check() {
  if (in_flight_.valid() && in_flight_.wait_for(std::chrono::seconds(0)) == std::future_status::ready)
    in_flight_.get();
}

}  // namespace internal
}  // namespace diffusers
