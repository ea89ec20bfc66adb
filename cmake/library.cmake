# libkinema.so and libkinema.a, both made of the rooms' archives: nothing is compiled twice.
set(map ${CMAKE_SOURCE_DIR}/api/libkinema.map)
add_library(kinema_shared SHARED $<TARGET_OBJECTS:kin_api>)
target_link_libraries(kinema_shared PRIVATE kin_training kin_flags)
target_link_options(kinema_shared PRIVATE -Wl,--version-script=${map} -Wl,--gc-sections)
if(NOT KIN_SANITIZE) # whose runtime the program brings
  target_link_options(kinema_shared PRIVATE -Wl,--no-undefined)
endif()
set_target_properties(kinema_shared PROPERTIES OUTPUT_NAME kinema LINKER_LANGUAGE CXX LINK_DEPENDS ${map}
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})

set(script "create ${CMAKE_BINARY_DIR}/libkinema.a\n")
foreach(room api training diffusion io physics text vision samplers tensor base)
  list(APPEND archives kin_${room})
  string(APPEND script "addlib $<TARGET_FILE:kin_${room}>\n")
endforeach()
file(GENERATE OUTPUT ${CMAKE_BINARY_DIR}/libkinema.mri CONTENT "${script}addlib ${KIN_CHIPMUNK}\nsave\nend\n")
add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/libkinema.a
  DEPENDS ${archives} ${KIN_CHIPMUNK} ${CMAKE_BINARY_DIR}/libkinema.mri
  COMMAND ${CMAKE_AR} -M < ${CMAKE_BINARY_DIR}/libkinema.mri)
add_custom_target(kinema_static ALL DEPENDS ${CMAKE_BINARY_DIR}/libkinema.a)
