-- Asks for each of @routes@ routes as often as for any other.
local requests = {}

function init()
    for number = 0, @routes@ - 1 do
        local host = string.format("%04d.many.localhost", math.floor(number / 100))
        local path = string.format("/many/%05d/1k", number)
        requests[number + 1] = wrk.format("GET", path, { Host = host })
    end
end

function request()
    return requests[math.random(#requests)]
end
