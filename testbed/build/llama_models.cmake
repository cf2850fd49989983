# Compiles llama.cpp's files about architectures together: there are 150, small ones, and each reads the same headers.
function(join_models)
    file(GLOB models ${CMAKE_SOURCE_DIR}/src/models/*.cpp)
    # It has a function of the same name as another file's.
    list(FILTER models EXCLUDE REGEX "/gemma4.cpp$")
    set(number 0)
    foreach(model ${models})
        math(EXPR group "${number} % 4")
        math(EXPR number "${number} + 1")
        set_source_files_properties(${model} TARGET_DIRECTORY llama PROPERTIES UNITY_GROUP models-${group})
    endforeach()
    set_target_properties(llama PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
endfunction()
cmake_language(DEFER DIRECTORY ${CMAKE_SOURCE_DIR} CALL join_models)
