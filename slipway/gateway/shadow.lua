-- Copies of requests for the shadow arm: sent when the champion has answered, in tasks that nobody waits for.
-- The champion's answer is copied piece by piece as it passes; nothing is held back.
local most = tonumber((...)) or 8
local LARGEST = 1048576
local in_flight, sent, dropped = 0, 0, 0

local function post(socket, path, headers, body)
  headers["content-type"] = { "application/json" }
  headers["content-length"] = { tostring(#body) }
  local client = core.httpclient()
  return client:post { url = "http://shadow" .. path, dst = "unix@" .. socket, headers = headers, body = body, timeout = 60000 }
end

-- Lengths before texts, so that no text needs an escape.
local function pair(job, status, answer, version, ms)
  local head = table.concat({ job.id, job.model, tostring(job.status), job.version, tostring(status), version, tostring(ms),
    tostring(#job.body), tostring(#job.answer), tostring(#answer) }, "\t")
  return head .. "\n" .. job.body .. job.answer .. answer
end

local function shadowed(job)
  local started = core.now()
  local ok, answer = pcall(post, job.socket, job.path, { ["x-request-id"] = { job.id } }, job.body)
  local now = core.now()
  local ms = (now.sec - started.sec) * 1000 + math.floor((now.usec - started.usec) / 1000)
  local status, body, version = 0, "", "-"
  if ok and answer then
    status, body = answer.status or 0, answer.body or ""
    local named = answer.headers and answer.headers["x-slipway-version"]
    version = named and named[0] or "-"
  end
  pcall(post, "pairs.sock", "/pairs", {}, pair(job, status, body, version, ms))
  in_flight = in_flight - 1
end

local Mirror = {}
Mirror.__index = Mirror
Mirror.id = "mirror"
Mirror.flags = filter.FLT_CFG_FL_HTX

function Mirror:new()
  return setmetatable({ parts = {}, size = 0, status = 0, version = "-" }, Mirror)
end

function Mirror:start_analyze(txn, channel)
  if channel:is_resp() then filter.register_data_filter(self, channel) end
  return filter.CONTINUE
end

function Mirror:http_headers(txn, message)
  if message:is_resp() then
    self.status = message:get_stline().code
    local named = message:get_headers()["x-slipway-version"]
    self.version = named and named[0] or "-"
  end
  return filter.CONTINUE
end

function Mirror:http_payload(txn, message)
  if message:is_resp() then
    local piece = message:body()
    if piece and self.size < LARGEST then
      self.parts[#self.parts + 1] = piece
      self.size = self.size + #piece
    end
  end
end

function Mirror:http_end(txn, message)
  if message:is_resp() then
    local body = txn:get_var("txn.body")
    if body and in_flight < most then
      in_flight, sent = in_flight + 1, sent + 1
      core.register_task(shadowed, {
        id = txn:get_var("txn.id") or "-", model = txn:get_var("txn.model") or "-", path = txn:get_var("txn.path") or "/",
        socket = txn:get_var("txn.shadow_socket"), status = self.status, version = self.version, body = body,
        answer = table.concat(self.parts),
      })
    else
      dropped = dropped + 1
    end
  end
  return filter.CONTINUE
end

core.register_filter("mirror", Mirror, function(made) return made end)

-- `show slipway shadow`: what was sent, dropped and is under way.
core.register_cli({ "show", "slipway", "shadow" }, "show slipway shadow : copies sent, dropped, under way", function(applet)
  applet:send(string.format("%d %d %d\n", sent, dropped, in_flight))
end)
