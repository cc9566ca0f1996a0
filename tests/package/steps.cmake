# Shared functions of the scripts in this folder.

# run(TITLE COMMAND...): runs a command that has to succeed.
function(run title)
  message(STATUS "${title}")
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE failed)
  if(failed)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${title} failed (${failed}): ${command}")
  endif()
endfunction()
