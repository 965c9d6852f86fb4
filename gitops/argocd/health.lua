-- Health of BpfProgram, ServiceLB and HostPolicy for Argo CD.
--
-- Healthy: the newest spec is in force on all its nodes. Progressing: nodes are at work, or the status still
-- speaks of an older spec. Degraded: only an edit can mend it, or its rollout was taken back.
-- Suspended: spec.suspend, or a rollout that is paused.

local health = {status = "Progressing", message = "waiting for the controller"}

if obj.metadata.deletionTimestamp ~= nil then
  health.message = "being removed from the nodes"
  return health
end

local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end

local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end

local ready, stalled = conditions["Ready"], conditions["Stalled"]
local rollout = status.rollout or {}

if stalled ~= nil and stalled.status == "True" then
  health.status, health.message = "Degraded", stalled.message
elseif rollout.phase == "RolledBack" then
  health.status, health.message = "Degraded", rollout.message
elseif obj.spec.suspend then
  health.status, health.message = "Suspended", "suspended by spec.suspend"
elseif rollout.phase == "Paused" then
  health.status, health.message = "Suspended", rollout.message
elseif ready ~= nil and ready.status == "True" then
  health.status, health.message = "Healthy", ready.message
elseif ready ~= nil then
  health.message = ready.message
end
return health
