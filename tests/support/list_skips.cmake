#What ctest runs after its summary : lists the tests that were skipped, whole or in part, with their reasons.
#cmake - DFOLDER = DIR - P list_skips.cmake DIR : the files that test_main.cpp and skips.py wrote
file(GLOB files "${FOLDER}/*.txt") set(lines "") foreach (file IN LISTS files) file(READ "${file}" text)
    string(APPEND lines "${text}") endforeach() string(REGEX MATCHALL "\n" ends "${lines}")
        list(LENGTH ends count) if (count GREATER 0) string(REGEX REPLACE
                                                            "\n$"
                                                            "" lines "${lines}")
            string(REPLACE
                   "\n"
                   "\n  skipped: " lines "${lines}")
                message("\nSkipped, with the reason (${count}):\n  skipped: ${lines}") endif()
